"""Pictures of a request: opened within limits, made ready for the tower, and kept for the next request."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..errors import VilaHDError
from ..images import open_image
from ..processing_vila_hd import VilaHDProcessor
from .questions import Picture
from .sources import PictureSources


class PictureCache:
    """The pictures that were used last, up to a number of bytes. For one thread.

    A conversation sends its pictures again with every turn; from here they come decoded and with their
    low-resolution pass.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Picture] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes in use. Pictures grow when they are looked at."""
        return sum(picture.nbytes for picture in self._kept.values())

    def get(self, key: bytes) -> Picture | None:
        """The picture, which counts as used now."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, picture: Picture) -> None:
        """Keep a picture, and drop those that were not used for longest."""
        self._kept[picture.key] = picture
        while self._kept and self.nbytes > self._max_bytes:
            self._kept.popitem(last=False)


class PictureStore:
    """Pictures by their addresses."""

    def __init__(
        self,
        processor: VilaHDProcessor,
        sources: PictureSources,
        *,
        max_pixels: int,
        cache_bytes: int,
        threads: int = 2,
        look_ahead: Callable[[Picture], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            processor: the model's.
            sources: reads addresses.
            max_pixels: larger pictures are refused before they are decoded.
            cache_bytes: memory for pictures that may be asked about again; 0: none is kept.
            threads: pictures that are decoded at the same time.
            look_ahead: called there with every picture that was decoded.
        """
        self._processor, self._sources, self._max_pixels = processor, sources, max_pixels
        self.cache = PictureCache(cache_bytes)
        self._look_ahead = look_ahead
        self._coming: dict[bytes, asyncio.Future[Picture]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vila-hd-picture")

    async def get(self, address: str, label: str) -> Picture:
        """The picture at an address.

        Args:
            address: a data, http(s) or file URL.
            label: what to call it in messages.

        Raises:
            VilaHDError: the address is not allowed or cannot be read, or it is no picture within the limits.
        """
        content = await self._sources.read(address, label)
        loop = asyncio.get_running_loop()
        key = await loop.run_in_executor(self._pool, _digest, content)
        known = self.cache.get(key)
        if known is None:
            if key not in self._coming:
                work = loop.run_in_executor(self._pool, self._prepare, content, key, label)
                work.add_done_callback(self._arrived)
                self._coming[key] = work
            # Shared by all requests that show the picture now: whoever leaves must not stop it.
            known = await asyncio.shield(self._coming[key])
        self.cache.put(known)
        return known

    def _arrived(self, work: asyncio.Future[Picture]) -> None:
        """From coming to kept in one step: a request in between would prepare the picture once more."""
        self._coming = {key: other for key, other in self._coming.items() if other is not work}
        if not work.cancelled() and work.exception() is None:
            self.cache.put(work.result())

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _prepare(self, content: bytes, key: bytes, label: str) -> Picture:
        picture = open_image(content, max_pixels=self._max_pixels, name=label)
        images = self._processor.image_processor
        framed = images.frame(picture)
        (pixels,) = images([framed], return_tensors=None)["pixel_values"]
        if pixels.ndim != 3:
            raise VilaHDError(f"{label}: became pixels of shape {tuple(pixels.shape)}")
        offset = images.frame_offset(picture.height, picture.width)
        ready = Picture(key, pixels, picture.size, framed.size, offset)
        if self._look_ahead is not None:
            self._look_ahead(ready)
        return ready


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
