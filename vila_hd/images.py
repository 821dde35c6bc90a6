"""Pictures from outside: each becomes a correct RGB picture, or one line that says what to do about it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from .errors import VilaHDError
from .utils.logging import get_logger
from .utils.text import one_line

logger = get_logger(__name__)

MAX_PIXELS = 200_000_000
"""Pixels (width x height) above which a picture is refused unless the caller allows it: 600 MB as RGB."""

ImageSource = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image
"""A file name, the bytes of a file, an open binary file, or a PIL picture."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "QOI")
"""Formats that are read. A list of ours: Pillow would also start Ghostscript for an EPS file, for example."""

KNOWN_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF; pages are not read, convert them first, e.g. pdftoppm -r 300 -png FILE page"),
    (0, b"%!PS", "PostScript; convert it to PNG first"),
    (0, b"<svg", "an SVG drawing; convert it to PNG first"),
    (0, b"<?xml", "an XML file (an SVG drawing?); convert it to PNG first"),
    (0, b"<!DOCTYPE", "a web page, not a picture; download the picture itself"),
    (0, b"<!doctype", "a web page, not a picture; download the picture itself"),
    (0, b"<html", "a web page, not a picture; download the picture itself"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the picture itself; run git lfs pull"),
    (0, b"8BPS", "a Photoshop file; export it as PNG first"),
    (0, b"PK\x03\x04", "a zip archive; unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (4, b"ftyphei", "a HEIC picture; convert it to JPEG or PNG first"),
    (4, b"ftyphev", "a HEIC picture; convert it to JPEG or PNG first"),
    (4, b"ftypmif", "a HEIF picture; convert it to JPEG or PNG first"),
    (4, b"ftypisom", "a video; save the frame you mean as PNG first"),
    (4, b"ftypmp4", "a video; save the frame you mean as PNG first"),
    (4, b"ftypqt", "a video; save the frame you mean as PNG first"),
    (0, b"\x1aE\xdf\xa3", "a video; save the frame you mean as PNG first"),
)
"""``(offset, magic bytes, what it is and what to do)`` of files that people pass as pictures."""

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files, found by fuzzing (tests/vila_hd/test_images.py)."""

ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright; 1 is upright already."""


def open_image(
    source: ImageSource, *, max_pixels: int | None = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """The picture as a person would see it: upright, 8-bit RGB, fully decoded, at its own size.

    - EXIF rotation is applied, so ``size`` is the size after it.
    - Transparency (alpha channel, palette or key colour) is composited on white.
    - 16-bit grey is divided by 257, float grey must lie in 0..1; a grey range that is not known is an error.
    - Of an animation or a file with several pages, the first one is used, and a warning says so.
    - CMYK is converted by formula; colour profiles are not applied (the towers were trained without).

    Args:
        source: a file name, the bytes of a file, an open binary file, or a PIL picture.
        max_pixels: larger pictures are refused before anything is decoded; None: no limit. A PIL picture that
            is decoded already is taken as it is.
        name: what to call the picture in messages; default: the file name, or what kind of source it is.

    Raises:
        VilaHDError: it is missing, not a picture, of a kind that is not read, damaged or larger than allowed.
    """
    label = name or _label(source)
    if isinstance(source, Image.Image):
        is_decoded = getattr(source, "_im", None) is not None
        return _finish(source, label, None if is_decoded else max_pixels)
    with _opened(source, label) as file:
        with _decoding(label, "picture"):
            image = _identify(file, label)
        return _finish(image, label, max_pixels)


def image_size(source: ImageSource, *, name: str | None = None) -> tuple[int, int]:
    """``(width, height)`` of the picture that ``open_image`` would return, from its header alone.

    Args:
        source: as for ``open_image``.
        name: as for ``open_image``.

    Raises:
        VilaHDError: it is missing, not a picture, or of a kind that is not read.
    """
    label = name or _label(source)
    if isinstance(source, Image.Image):
        return _upright_size(source, label)
    with _opened(source, label) as file, _decoding(label, "picture"):
        return _upright_size(_identify(file, label), label)


def _upright_size(image: Image.Image, label: str) -> tuple[int, int]:
    width, height = image.size
    # Pillow tells the size of a TIFF as it will be after turning.
    sideways = image.format != "TIFF" and _orientation(image, label) in (5, 6, 7, 8)
    return (height, width) if sideways else (width, height)


def _label(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "PIL picture")
    file_name = getattr(source, "name", None)
    return file_name if isinstance(file_name, str) and file_name else "picture given as bytes"


@contextmanager
def _opened(source: str | Path | bytes | bytearray | memoryview | BinaryIO, label: str) -> Iterator[BinaryIO]:
    """A seekable binary file for the source; closed afterwards only when it was opened here."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
        return
    if not isinstance(source, str | Path):
        yield _seekable(source, label)
        return
    if str(source).startswith(("http://", "https://")):
        raise VilaHDError(f"{label}: addresses are not fetched; download the picture and give the file name")
    if str(source).strip() == "":
        raise VilaHDError(f"image {str(source)!r}: an empty file name; give the name of a picture file")
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise VilaHDError(f"{label}: no such file; check the name") from None
    except IsADirectoryError:
        raise VilaHDError(f"{label}: a folder, not a picture; give the name of a picture file") from None
    except PermissionError:
        raise VilaHDError(f"{label}: no permission to read it; check with ls -l") from None
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a null byte
        raise VilaHDError(f"{label}: cannot be opened ({_reason(error)}); check the name") from error
    with file:
        yield _seekable(file, label)


def _seekable(file: BinaryIO, label: str) -> BinaryIO:
    """``file`` itself, or its rest in memory when it is a pipe."""
    if not hasattr(file, "read"):
        raise VilaHDError(
            f"image of type {type(file).__name__}: give a file name, bytes, an open binary file or a PIL "
            "picture (PIL.Image.fromarray makes one of an array)"
        )
    with _decoding(label, "file"):
        if getattr(file, "seekable", lambda: False)():
            return file
        content = file.read()
    if not isinstance(content, bytes):
        raise VilaHDError(f"{label}: opened as text; open it with mode 'rb'")
    return io.BytesIO(content)


@contextmanager
def _decoding(label: str, what: str) -> Iterator[None]:
    """Turn what a decoder raises into one line."""
    try:
        yield
    except VilaHDError:
        raise
    except MemoryError as error:
        raise VilaHDError(f"{label}: not enough memory to decode it; make the picture smaller") from error
    except Image.DecompressionBombError as error:
        # Some decoders ask (TIFF, WebP); a library must not change the setting of the whole process.
        raise VilaHDError(
            f"{label}: more pixels than Pillow decodes ({_reason(error)}); make it smaller, or allow it with "
            "--allow-huge-images (in Python: PIL.Image.MAX_IMAGE_PIXELS = None)"
        ) from error
    except DECODER_ERRORS as error:
        raise VilaHDError(
            f"{label}: damaged or cut off, it cannot be decoded as a {what} ({_reason(error)}); get it again "
            "or save it anew with an image editor"
        ) from error


def _reason(error: BaseException) -> str:
    text = one_line(error)
    return text[:120] if text else type(error).__name__


def _identify(file: BinaryIO, label: str) -> Image.Image:
    """The picture with its header read and nothing decoded.

    Not ``Image.open``: that has its own size limit in a global of Pillow, which a library must not change.
    The limit that counts is ``max_pixels``, checked by the caller before decoding.
    """
    file.seek(0)
    prefix = file.read(64)
    if not isinstance(prefix, bytes):
        raise VilaHDError(f"{label}: opened as text; open it with mode 'rb'")
    if not prefix:
        raise VilaHDError(f"{label}: empty (0 bytes); get the file again")
    Image.init()  # registers every format; does nothing the second time
    for kind in FORMATS:
        if kind not in Image.OPEN:  # this build of Pillow lacks the codec (AVIF, JPEG 2000, WebP)
            continue
        factory, accepts = Image.OPEN[kind]
        verdict = accepts(prefix[:16]) if accepts is not None else False
        if isinstance(verdict, str):  # right format, but a codec is missing
            raise VilaHDError(
                f"{label}: {kind} is not readable by this Pillow ({verdict}); convert it to PNG first"
            )
        if verdict:
            file.seek(0)
            return factory(file, "")
    for offset, magic, advice in KNOWN_OTHERS:
        if prefix[offset:].lstrip(b"\xef\xbb\xbf \r\n\t" if offset == 0 else b"").startswith(magic):
            raise VilaHDError(f"{label}: {advice}")
    raise VilaHDError(
        f"{label}: not a picture that can be read (it starts with {prefix[:8]!r}); "
        f"use {', '.join(FORMATS[:6])}"
    )


def _finish(image: Image.Image, label: str, max_pixels: int | None) -> Image.Image:
    """Decode, turn upright, convert to RGB."""
    width, height = image.size
    if width < 1 or height < 1:
        raise VilaHDError(f"{label}: {width} x {height} pixels; give a picture with at least one pixel")
    if max_pixels is not None and width * height > max_pixels:
        raise VilaHDError(
            f"{label}: {width} x {height} = {width * height / 1e6:.0f} megapixels, more than the "
            f"{max_pixels / 1e6:.0f} allowed; make it smaller, or allow it with --allow-huge-images "
            "(open_image: max_pixels=None)"
        )
    with _decoding(label, image.format or "picture"):
        image.load()
        _warn_about_frames(image, label)
        rgb = _to_rgb(image, label)
        turn = ORIENTATIONS.get(_orientation(image, label))
        return rgb if turn is None else rgb.transpose(turn)


def _warn_about_frames(image: Image.Image, label: str) -> None:
    """Say so when there is more in the file than the frame that is used."""
    try:
        several = bool(getattr(image, "is_animated", False))
    except DECODER_ERRORS:
        several = True  # something follows the first frame, and it is damaged
    if several:
        logger.warning("%s: has several frames or pages; only one is looked at (of a file: the first)", label)


def _orientation(image: Image.Image, label: str) -> int:
    """EXIF orientation, read after ``load`` (where Pillow turns TIFF pictures itself and drops the tag)."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except DECODER_ERRORS:
        logger.warning("%s: its EXIF block is damaged; the picture is taken as upright", label)
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    convert = WIDE_MODES.get(image.mode)
    if convert is not None:
        return convert(image, label)
    if image.mode == "LAB":  # Pillow converts this one only by colour management
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        ) or image.convert("RGB")
    if image.has_transparency_data:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # premultiplied: divide first
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, label: str) -> Image.Image:
    """65535 is white: ``Image.convert`` would clip everything above 255 to white instead."""
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_32_bit(image: Image.Image, label: str) -> Image.Image:
    """PNG and PPM say that 65535 is white; elsewhere nobody says what is."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if image.format not in ("PNG", "PPM") or low < 0 or high > 65535:
        raise VilaHDError(
            f"{label}: 32-bit grey values from {low} to {high}, and which one is white is not known; "
            "save it as 8-bit or 16-bit"
        )
    return _from_16_bit(image, label)


def _from_float(image: Image.Image, label: str) -> Image.Image:
    """1.0 is white."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # also when either is NaN
        raise VilaHDError(
            f"{label}: float grey values from {low:g} to {high:g}, and which one is white is not known; "
            "scale them to 0..1 or save it as 8-bit"
        )
    return Image.fromarray((values * 255.0 + 0.5).astype(np.uint8)).convert("RGB")


WIDE_MODES: dict[str, Callable[[Image.Image, str], Image.Image]] = {
    "I;16": _from_16_bit,
    "I;16L": _from_16_bit,
    "I;16B": _from_16_bit,
    "I;16N": _from_16_bit,
    "I": _from_32_bit,
    "F": _from_float,
}
"""Modes with more than 8 bits per value, where the range has to be known."""
