"""Selection Lens: where did the model look, and what could it see there?

A poster (PNG) to share, and a page (one HTML file without any network access) to explore. Used by the command
line, the demo, the server and evaluation.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .errors import VilaHDError
from .lens.page import render_page
from .lens.poster import draw_poster
from .lens.views import processed_view, reconstruct, view_size
from .receipt import Look, Receipt


def reconstruction(image: Image.Image, look: Look) -> Image.Image:
    """What the model could see: the enlarged low-res view under the chosen patches, the finest scale on top.

    Each scale appears in its own resolution, resized as the tower resizes; what no patch shows stays as
    blurred as it was for the model.

    Args:
        image: the picture as opened, after EXIF rotation.
        look: what was looked at in it.

    Returns:
        An RGB picture in the shape of ``image``, reduced where even the finest scale is smaller.

    Raises:
        VilaHDError: ``look`` belongs to a picture of another size.
    """
    picture = _as_rgb(image, look, 1)
    return reconstruct(processed_view(picture, look), look, view_size(look))


def render_poster(
    image: Image.Image, look: Look, *, question: str = "", answer: str = "", receipt: Receipt | None = None
) -> Image.Image:
    """One RGB picture, 1920 pixels wide, that shows where the model looked and what it saw.

    Args:
        image: the picture as opened, after EXIF rotation.
        look: what was looked at in it.
        question: printed on top; may be empty.
        answer: printed under the question; may be empty.
        receipt: adds the cost of the answer.

    Raises:
        VilaHDError: ``look`` belongs to a picture of another size.
    """
    pictures = [_as_rgb(image, look, 1)]
    return draw_poster(pictures, [look], question=question, answer=answer, receipt=receipt)


def write_lens(
    path: str | Path,
    images: Sequence[Image.Image],
    looks: Sequence[Look],
    *,
    question: str,
    answer: str,
    receipt: Receipt,
) -> Path:
    """Write the lens of one answer: a poster to a ``.png`` file or an explorable page to a ``.html`` file.

    Args:
        path: where to write; its suffix decides the form. An existing file is replaced.
        images: the pictures as opened, after EXIF rotation.
        looks: one look per picture.
        question: what was asked; any text, it is escaped.
        answer: what the model said; any text, it is escaped.
        receipt: the cost of the answer.

    Returns:
        The path that was written.

    Raises:
        VilaHDError: another suffix, no picture, as many looks as pictures not given, a look of a picture of
            another size, or a folder that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise VilaHDError(f"cannot write a lens to {str(path)!r}: use a name that ends in .png or .html")
    if len(images) != len(looks):
        raise VilaHDError(f"{len(images)} pictures but {len(looks)} looks: give one look per picture")
    if not images:
        raise VilaHDError("0 pictures: a lens needs an answer about at least one picture")
    pairs = zip(images, looks, strict=True)
    pictures = [_as_rgb(image, look, number) for number, (image, look) in enumerate(pairs, start=1)]
    try:
        if path.suffix.lower() == ".png":
            poster = draw_poster(pictures, looks, question=question, answer=answer, receipt=receipt)
            poster.save(path, compress_level=4)
        else:
            page = render_page(pictures, looks, question=question, answer=answer, receipt=receipt)
            path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise VilaHDError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    return path


def _as_rgb(image: Image.Image, look: Look, number: int) -> Image.Image:
    """``image`` as RGB, if it is the picture that ``look`` is about."""
    if image.size != look.original_size:
        raise VilaHDError(
            "picture {} is {} x {} px but its look is of {} x {} px: "
            "give the picture as opened, after EXIF rotation".format(number, *image.size, *look.original_size)
        )
    return image if image.mode == "RGB" else image.convert("RGB")
