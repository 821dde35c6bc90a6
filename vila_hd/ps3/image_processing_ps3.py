"""Pictures to the tensor that the PS3 tower reads; needs pillow and torch only."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from ..errors import VilaHDError
from .configuration_ps3 import PS3VisionConfig
from .configuration_ps3_dual import PS3Config
from .configuration_trunk import CLIP_MEAN, CLIP_STD

ResizeMode = Literal["squash", "fit", "pad", "keep"]
"""``squash``: to exactly the image size, whatever the aspect ratio (published models). ``fit``: keep the
aspect ratio; a longest side above the image size is reduced to it, the other rounded to whole pixels, and
smaller pictures stay as they are: the tower enlarges the patches that it looks at, and only those. ``pad``:
put the picture on the middle of a square of the mean colour first (see ``PS3ImageProcessor.frame``), then as
``squash``. ``keep``: as it is, for towers that make their own views of it."""

Interpolation = Literal["bicubic", "bilinear", "random"]
"""``random`` is a training choice of published files and means bicubic here."""

ImageSource = Image.Image | np.ndarray | torch.Tensor
"""A picture: PIL, ``(rows, columns, 3)`` or ``(rows, columns)`` uint8 array, or ``(3, rows, columns)`` uint8
tensor."""

# Pillow turns these into RGB by cutting every value above 255, which shows nothing but white.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PS3ImageKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options that a call may override, beyond those of transformers."""

    image_size: int | tuple[int, int]
    mean: float | Sequence[float]
    std: float | Sequence[float]
    interpolation: Interpolation
    resize_mode: ResizeMode


class PS3ImageProcessor(BaseImageProcessor):
    """Resizes a picture, converts it to RGB and, if asked, normalises it.

    Reads a published ``preprocessor_config.json`` as it is; ``size``, ``crop_size``, ``image_mean`` and
    ``image_std`` are the names under which transformers users look for the same numbers.

    Args:
        image_size: Side of the square, or ``(height, width)``, in pixels; normally the tower's largest scale.
        mean: One number or one per colour channel, for pixel values in [0, 1]; None: those of CLIP.
        std: As ``mean``.
        interpolation: Filter of the resize, always antialiased.
        resize_mode: See ``ResizeMode``.
        do_normalize: True: float32, normalised. False: raw uint8, which the tower normalises patch by patch,
            so that a 4K picture is never held as floats.
        size: Accepted where it agrees with ``image_size``, or instead of it.
        crop_size: Ignored; derived from ``image_size``.
        image_mean: Another name of ``mean``.
        image_std: Another name of ``std``.
        **kwargs: Other keys of a stored file, kept but not used.

    Raises:
        VilaHDError: an option has a value it cannot have, or two names of one option disagree.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    valid_kwargs = PS3ImageKwargs

    def __init__(
        self,
        image_size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: Interpolation = "bicubic",
        resize_mode: ResizeMode = "squash",
        *,
        do_normalize: bool = True,
        size: Any = None,
        crop_size: Any = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        self.image_size = list(_resolve_size(image_size, size))
        self.mean = _resolve_channels("mean", mean, image_mean, CLIP_MEAN)
        self.std = _resolve_channels("std", std, image_std, CLIP_STD)
        if min(self.std) <= 0:
            raise VilaHDError(f"std={self.std}: use numbers above 0")
        self.interpolation = _check_choice("interpolation", interpolation, Interpolation)
        self.resize_mode = _check_choice("resize_mode", resize_mode, ResizeMode)
        self.do_normalize = _check_flag("do_normalize", do_normalize)
        self.size = {"shortest_edge": self.image_size[0]}
        self.crop_size = {"height": self.image_size[0], "width": self.image_size[0]}
        self.image_mean, self.image_std = list(self.mean), list(self.std)
        self._check_fit(self.image_size, self.resize_mode)

    def preprocess(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        do_normalize: bool | None = None,
        image_size: int | Sequence[int] | None = None,
        resize_mode: ResizeMode | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pictures as tensors.

        Args:
            images: One picture or several.
            do_normalize: Override of the constructor's option, as are ``image_size`` and ``resize_mode``.
            image_size: See the constructor.
            resize_mode: See the constructor.
            return_tensors: ``"pt"``: stack pictures of one shape; None: keep a list.
            **kwargs: Nothing else is accepted; here because the signature is that of transformers.

        Returns:
            ``pixel_values``: ``(images, 3, rows, columns)`` or a list of ``(3, rows, columns)``; float32, or
            uint8 without normalisation. ``image_sizes``: (height, width) of each picture as given, in pixels;
            with ``pad`` that of its square.

        Raises:
            VilaHDError: something that is not a picture, or an option with a value it cannot have.
        """
        if unknown := sorted(name for name, value in kwargs.items() if value is not None):
            raise VilaHDError(
                f"unknown image option(s) {unknown}: "
                "use image_size, resize_mode, do_normalize or return_tensors"
            )
        if return_tensors not in (None, "pt"):
            raise VilaHDError(f"return_tensors={return_tensors!r}: use 'pt' or None")
        target = self.image_size if image_size is None else list(_resolve_size(image_size, None))
        mode = (
            self.resize_mode if resize_mode is None else _check_choice("resize_mode", resize_mode, ResizeMode)
        )
        normalize = self.do_normalize if do_normalize is None else _check_flag("do_normalize", do_normalize)
        self._check_fit(target, mode)
        pictures = _to_pictures(images)
        if mode == "pad":
            pictures = [self._pad(picture) for picture in pictures]
        sizes = [(picture.height, picture.width) for picture in pictures]
        values = [self._to_tensor(self._resize(picture, target, mode), normalize) for picture in pictures]
        if return_tensors is None:
            return BatchFeature({"pixel_values": values, "image_sizes": sizes})
        same = len({value.shape for value in values}) == 1
        return BatchFeature(
            {"pixel_values": torch.stack(values) if same else values, "image_sizes": torch.tensor(sizes)}
        )

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that a picture of this size is given with the constructor's options."""
        return _target_size(height, width, self.image_size, self.resize_mode)

    def frame(self, picture: Image.Image) -> Image.Image:
        """The picture that places are relative to once it was looked at: with ``pad`` its square, else
        itself."""
        return self._pad(picture) if self.resize_mode == "pad" else picture

    def frame_offset(self, height: int, width: int) -> tuple[int, int]:
        """(x, y) in pixels of the upper left corner of a picture of this size in its frame."""
        side = max(height, width) if self.resize_mode == "pad" else 0
        return max(0, side - width) // 2, max(0, side - height) // 2

    def _pad(self, picture: Image.Image) -> Image.Image:
        # Matches the reference's expand2square, which is given RGB pictures.
        picture = _to_rgb(picture)
        width, height = picture.size
        side = max(width, height)
        if width == height:
            return picture
        square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self.mean))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return square

    def _resize(self, picture: Image.Image, target: list[int], mode: ResizeMode) -> Image.Image:
        if mode == "fit":
            # Differs from the published order on purpose: pillow resizes palette pictures without any filter.
            picture = _to_rgb(picture)
        height, width = _target_size(picture.height, picture.width, target, mode)
        if (picture.height, picture.width) != (height, width):
            bilinear = self.interpolation == "bilinear"
            method = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
            picture = picture.resize((width, height), method)
        return _to_rgb(picture)

    def _to_tensor(self, picture: Image.Image, normalize: bool) -> torch.Tensor:
        # Band by band: pillow and numpy copy whole bands four times as fast as they take pixels apart.
        value = torch.from_numpy(np.stack([np.asarray(band) for band in picture.split()]))
        if not normalize:
            return value
        value = value.to(torch.float32).div_(255)
        return value.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])

    def _check_fit(self, size: list[int], mode: ResizeMode) -> None:
        if mode == "fit" and size[0] != size[1]:
            raise VilaHDError(
                f"image_size={tuple(size)} with resize_mode='fit': use one number, the longest side"
            )


def _target_size(height: int, width: int, target: Sequence[int], mode: ResizeMode) -> tuple[int, int]:
    if mode == "keep":
        return height, width
    if mode in ("squash", "pad"):
        return target[0], target[1]
    longest = max(height, width)
    if longest <= target[0]:
        return height, width
    return (
        max(1, round(height * target[0] / longest)),
        max(1, round(width * target[0] / longest)),
    )


def _to_pictures(images: ImageSource | Sequence[ImageSource]) -> list[Image.Image]:
    if isinstance(images, np.ndarray | torch.Tensor):
        images = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Image.Image):
        images = [images]
    elif isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise VilaHDError(
            f"images={_show(images)}: use pictures (PIL, uint8 array or tensor); open files first"
        )
    if not images:
        raise VilaHDError("images is empty: use at least one picture")
    return [_to_picture(image) for image in images]


def _to_picture(image: ImageSource) -> Image.Image:
    if isinstance(image, torch.Tensor | np.ndarray):
        array = np.asarray(_channels_last(image))
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            raise VilaHDError(
                f"picture of shape {tuple(image.shape)} and type {image.dtype}: use uint8 of shape "
                "(rows, columns, 3) for an array or (3, rows, columns) for a tensor"
            )
        if not array.size:
            raise VilaHDError(f"picture of shape {tuple(image.shape)}: it has no pixels")
        image = Image.fromarray(array)
    if not isinstance(image, Image.Image):
        raise VilaHDError(f"picture={_show(image)}: use a PIL picture, or a uint8 array or tensor")
    if not (image.width and image.height):
        raise VilaHDError(f"picture of {image.width}x{image.height} pixels: it has no pixels")
    try:
        image.load()  # pillow reads a file only now: a cut-off one fails here
    except (OSError, SyntaxError) as error:
        raise VilaHDError(f"picture cannot be read ({error}): get an intact copy of the file") from error
    if image.mode in _DEEP_MODES:
        raise VilaHDError(
            f"picture mode {image.mode!r} has more than 8 bits per channel: scale it to 8 bits first"
        )
    return image


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":  # convert would copy it
        return picture
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise VilaHDError(f"picture of mode {picture.mode!r} cannot be read as RGB: {error}") from error


def _channels_last(image: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    if isinstance(image, np.ndarray):
        return image
    channels_first = image.ndim == 3 and image.shape[0] == 3
    return (image.permute(1, 2, 0) if channels_first else image).cpu()


def _resolve_size(image_size: int | Sequence[int] | None, size: Any) -> tuple[int, int]:
    if image_size is None and size is not None:
        image_size = _read_size_dict(size)
        size = None
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size or ())
    if len(sides) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides
    ):
        raise VilaHDError(f"image_size={image_size!r}: use a number of pixels or (height, width)")
    height, width = sides
    if size is not None and _read_size_dict(size) not in (height, (height, width)):
        raise VilaHDError(f"size={size!r} disagrees with image_size={sides}: set image_size only")
    return height, width


def _read_size_dict(size: Any) -> Any:
    """The image size that a transformers ``size`` stands for; anything unknown is returned for the caller to
    reject."""
    if isinstance(size, dict):
        if set(size) == {"shortest_edge"}:
            return size["shortest_edge"]
        if set(size) == {"height", "width"}:
            return size["height"], size["width"]
    return size


def _resolve_channels(
    name: str,
    value: float | Sequence[float] | None,
    other: float | Sequence[float] | None,
    default: tuple[float, ...],
) -> list[float]:
    given = [_to_channels(name, number) for number in (value, other) if number is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise VilaHDError(f"{name}={given[0]} disagrees with image_{name}={given[1]}: set one of them")
    return given[0] if given else list(default)


def _to_channels(name: str, value: float | Sequence[float]) -> list[float]:
    numbers = [value] * 3 if isinstance(value, int | float) else list(value)
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise VilaHDError(f"{name}={value!r}: use one number, or one for each of the three colour channels")
    return [float(number) for number in numbers]


def _check_choice(name: str, value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise VilaHDError(f"{name}={value!r}: use one of {', '.join(get_args(kind))}")
    return value


def _check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise VilaHDError(f"{name}={value!r}: use True or False")
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


for _config in (PS3VisionConfig, PS3Config):
    AutoImageProcessor.register(_config, image_processor_classes={"pil": PS3ImageProcessor}, exist_ok=True)
del _config
