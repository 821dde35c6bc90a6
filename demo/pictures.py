"""Uploaded files -> pictures of a session: checked once, and kept as files, never as objects in a chat."""

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.images import open_image
from vila_hd.utils.imports import import_optional

PAGE_SIDE = 3840
"""Pixels of the longer side of a PDF page as a picture."""

THUMBNAIL_SIDE = 560
"""Pixels of the longer side of a picture in the chat."""

_PDFIUM = threading.Lock()
"""PDFium is not made for several threads."""


@dataclass(frozen=True)
class Limits:
    """What one person may ask of the demo."""

    file_megabytes: int = 64
    """Size of one uploaded file."""

    pictures: int = 6
    """Pictures of one conversation."""

    pages: int = 4
    """Pages of one PDF that are read; later ones are left out, and the page says so."""

    sessions: int = 24
    """Conversations that are kept; the one that was idle the longest goes first."""

    idle_minutes: int = 60
    """A conversation that was idle longer is forgotten."""

    question_characters: int = 4000
    """Longest question."""

    new_tokens: int = 512
    """Longest answer."""

    waiting: int = 24
    """Questions that may wait in line."""


@dataclass(frozen=True)
class Picture:
    """One picture as files."""

    path: Path
    """What the model reads."""

    shown: Path
    """The same for the browser: itself, or a copy where browsers cannot show the format."""

    thumbnail: Path
    """The same, small, for the chat."""

    size: tuple[int, int]
    """(width, height) in pixels after EXIF rotation."""

    name: str
    """What the person called it."""


def take_file(source: Path, folder: Path, limits: Limits) -> tuple[list[Picture], str]:
    """The pictures of an uploaded file, copied into ``folder``, and a remark for the person (may be empty).

    Raises:
        VilaHDError: it is too large, or not a picture or PDF that can be read.
    """
    try:
        size, start = source.stat().st_size, source.open("rb").read(5)
    except OSError as error:
        raise VilaHDError(f"{source.name}: the upload is gone ({error.strerror}); add it again") from error
    if size > limits.file_megabytes * 2**20:
        raise VilaHDError(
            f"{source.name}: {size / 2**20:.0f} MB, more than the {limits.file_megabytes} MB allowed; "
            "make it smaller"
        )
    if start == b"%PDF-":
        return _take_pdf(source, folder, limits)
    place = folder / f"{_next_number(folder)}{source.suffix.lower()}"
    shutil.copyfile(source, place)
    try:
        return [_prepare(place, source.name)], ""
    except VilaHDError as error:
        place.unlink()
        raise VilaHDError(str(error).replace(str(place), source.name)) from error


def _next_number(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _prepare(path: Path, name: str) -> Picture:
    """The picture in ``path`` with a thumbnail, and a copy for the browser where it needs one."""
    image = open_image(path)
    thumbnail = path.with_name(f"{path.stem}_small.jpg")
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(thumbnail, quality=88)
    shown = path
    if not _browser_shows(path):
        shown = path.with_name(f"{path.stem}_shown.png")
        image.save(shown, compress_level=1)
    return Picture(path=path, shown=shown, thumbnail=thumbnail, size=image.size, name=name)


def _browser_shows(path: Path) -> bool:
    """Whether a browser shows the file as ``open_image`` reads it."""
    with Image.open(path) as image:
        plain = image.mode in ("RGB", "L") and not image.has_transparency_data
        return image.format in ("PNG", "JPEG", "WEBP") and plain and getattr(image, "n_frames", 1) == 1


def _take_pdf(source: Path, folder: Path, limits: Limits) -> tuple[list[Picture], str]:
    """The first pages as pictures whose longer side has ``PAGE_SIDE`` pixels."""
    pdfium = import_optional("pypdfium2", extra="demo", purpose="reading PDF files")
    pictures = []
    with _PDFIUM:
        try:
            document = pdfium.PdfDocument(source)
        except pdfium.PdfiumError as error:
            raise VilaHDError(
                f"{source.name}: not a PDF that can be read ({error}); is it protected?"
            ) from error
        try:
            total = len(document)
            for number in range(min(total, limits.pages)):
                page = document[number]
                scale = PAGE_SIDE / max(page.get_size())
                place = folder / f"{_next_number(folder)}.png"
                page.render(scale=scale).to_pil().convert("RGB").save(place, compress_level=1)
                pictures.append(_prepare(place, f"{source.name}, page {number + 1}"))
        except pdfium.PdfiumError as error:
            raise VilaHDError(f"{source.name}: page {len(pictures) + 1} cannot be drawn ({error})") from error
        finally:
            document.close()
    if not pictures:
        raise VilaHDError(f"{source.name}: a PDF without pages; add another file")
    if total > len(pictures):
        return pictures, f"{source.name}: the first {len(pictures)} of {total} pages were added."
    return pictures, ""
