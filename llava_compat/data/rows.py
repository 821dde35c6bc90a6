"""The one type that rows of every format become."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.images import image_size, open_image
from vila_hd.options import Box

from .problems import DataError, Source

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ImageReference:
    """A picture that is opened when it is asked for."""

    name: str
    """What to call it in messages."""

    picture: Path | bytes | Image.Image = field(repr=False)
    """A file inside of the media folder, the bytes of one, or a picture in memory."""

    def open(self) -> Image.Image:
        """The picture: upright RGB, decoded.

        Raises:
            DataError: it is missing, damaged or no picture.
        """
        try:
            return open_image(self.picture, name=self.name)
        except DataError:
            raise
        except VilaHDError as error:
            raise DataError(str(error), kind=self._kind_of_failure()) from error

    def size(self) -> tuple[int, int]:
        """``(width, height)`` of the picture that ``open`` returns, from its header.

        Raises:
            DataError: it is missing or no picture.
        """
        try:
            return image_size(self.picture, name=self.name)
        except VilaHDError as error:
            raise DataError(str(error), kind=self._kind_of_failure()) from error

    def _kind_of_failure(self) -> Literal["image missing", "image broken"]:
        missing = isinstance(self.picture, Path) and not self.picture.exists()
        return "image missing" if missing else "image broken"


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: tuple[str | ImageReference, ...]
    """Texts and pictures in reading order."""

    def to_chat(self) -> dict[str, Any]:
        """The message for a chat template; a plain string where there is no picture."""
        if not any(isinstance(part, ImageReference) for part in self.content):
            return {"role": self.role, "content": "".join(str(part) for part in self.content)}
        items = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in self.content
        ]
        return {"role": self.role, "content": items}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One validated sample."""

    id: str
    source: Source
    messages: tuple[Message, ...]
    """Roles alternate: an optional system message, then user and assistant in turn, the assistant last."""

    boxes: tuple[tuple[Box, ...], ...] = ()
    """What the answer needs to see: one tuple of boxes per picture; () when nothing is known."""

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """Pictures in reading order."""
        return tuple(p for m in self.messages for p in m.content if isinstance(p, ImageReference))

    def to_chat(self) -> list[dict[str, Any]]:
        """Messages for ``vila_hd.supervision.ConversationEncoder`` and ``apply_chat_template``."""
        return [message.to_chat() for message in self.messages]

    def open_images(self) -> list[Image.Image]:
        """The pictures in reading order.

        Raises:
            DataError: one cannot be opened, or a box lies outside of its picture.
        """
        try:
            pictures = [reference.open() for reference in self.images]
            self._check_boxes([picture.size for picture in pictures])
        except DataError as error:
            raise error.at(self.source, self.id) from error
        return pictures

    def check_images(self) -> list[tuple[int, int]]:
        """``(width, height)`` of every picture, from the headers, after checking that boxes lie inside.

        Raises:
            DataError: as for ``open_images``, but for damage behind the header.
        """
        try:
            sizes = [reference.size() for reference in self.images]
            self._check_boxes(sizes)
        except DataError as error:
            raise error.at(self.source, self.id) from error
        return sizes

    def _check_boxes(self, sizes: Sequence[tuple[int, int]]) -> None:
        for image, boxes, (width, height) in zip(self.images, self.boxes, sizes, strict=False):
            for box in boxes:
                if box[2] > width or box[3] > height:
                    raise DataError(
                        f"box {list(box)} lies outside of {image.name}, which is {width} x {height} pixels; "
                        "give (x1, y1, x2, y2) in pixels of the original picture",
                        kind="box",
                    )


def iterate_texts(row: Row) -> Iterator[str]:
    """Every text of a row."""
    return (part for message in row.messages for part in message.content if isinstance(part, str))
