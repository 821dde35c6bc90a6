"""From typed words to the objects of the library: pictures, questions, and how closely to look."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from PIL import Image

from ..errors import VilaHDError
from ..images import MAX_PIXELS, open_image
from ..options import GUIDES, Box, Guide, HighResOptions, Pruning

PICTURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".bmp",
    ".avif",
    ".ppm",
    ".jp2",
)


_GUIDE_WORDS = ", ".join(map(repr, GUIDES))


def split_inputs(inputs: Sequence[str]) -> tuple[list[str], str]:
    """``(picture files, question)`` of the words of ``vila-hd ask``.

    Raises:
        VilaHDError: there is no picture or no question.
    """
    usage = 'vila-hd ask picture.png "What is written on the sign?"'
    if len(inputs) < 2:
        given = f" besides {inputs[0]!r}" if inputs else ""
        raise VilaHDError(f"nothing given{given}: name at least one picture, then the question, e.g. {usage}")
    *names, question = inputs
    check_question(question)
    if Path(question).suffix.lower() in PICTURE_SUFFIXES and " " not in question.strip():
        raise VilaHDError(f"{question!r} is a picture, not a question: the question comes last, e.g. {usage}")
    return names, question


def check_question(question: str) -> None:
    """Pass when there is something to answer.

    Raises:
        VilaHDError: the question is empty or cannot be written as UTF-8.
    """
    if not question.strip():
        raise VilaHDError(f"question {question!r} is empty: ask something")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise VilaHDError(
            f"question {question!r} is not valid UTF-8: check the terminal's encoding"
        ) from None


def open_images(names: Sequence[str], *, allow_huge: bool) -> list[Image.Image]:
    """The pictures, upright and RGB.

    Raises:
        VilaHDError: one of them cannot be opened.
    """
    if allow_huge:
        Image.MAX_IMAGE_PIXELS = None  # asked for by the user, for this process
    return [open_image(name, max_pixels=None if allow_huge else MAX_PIXELS) for name in names]


def high_res_options(args: argparse.Namespace, *, num_images: int, default_guide: str) -> HighResOptions:
    """How closely to look, from the options of ``ask`` and ``chat``.

    Args:
        args: parsed options.
        num_images: pictures in this call; boxes are sorted by picture.
        default_guide: what the checkpoint was trained for, used when ``--guided-by`` is not given.

    Raises:
        VilaHDError: options that do not go together, or a box without meaning.
    """
    guide, regions = parse_guides(args.guided_by, num_images=num_images)
    return HighResOptions(
        budget=args.budget,
        guided_by=guide or cast(Guide, default_guide),
        regions=regions,
        per_scale=args.per_scale,
        max_scale=args.max_scale,
        smooth=args.smooth,
        pruning=None if args.prune is None else Pruning.parse(args.prune),
    )


def parse_guides(
    words: Sequence[str], *, num_images: int
) -> tuple[Guide | Literal["regions"] | None, tuple[tuple[Box, ...], ...]]:
    """``(guide, boxes per picture)`` of the values of ``--guided-by``; the guide is None when there are none.

    Raises:
        VilaHDError: an unknown word, a box that is none, or a word together with boxes.
    """
    named = [guide for guide in GUIDES if guide in words]
    if named and len(words) > 1:
        raise VilaHDError(f"--guided-by {' '.join(words)}: use one of {_GUIDE_WORDS}, or boxes only")
    if named:
        return named[0], ()
    if not words:
        return None, ()
    boxes: list[list[Box]] = [[] for _ in range(num_images)]
    for word in words:
        number, box = _parse_box(word, num_images)
        boxes[number - 1].append(box)
    return "regions", tuple(tuple(group) for group in boxes)


def _parse_box(word: str, num_images: int) -> tuple[int, Box]:
    """``(number of the picture from 1, box)``."""
    numbered, _, rest = word.rpartition(":")
    try:
        number = int(numbered) if numbered else 1
        x1, y1, x2, y2 = (float(part) for part in rest.split(","))
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError
    except ValueError:
        raise VilaHDError(
            f"--guided-by {word!r}: use {_GUIDE_WORDS} or a box x1,y1,x2,y2 in pixels of the picture"
        ) from None
    if not num_images:
        raise VilaHDError(f"--guided-by {word!r}: there is no picture yet to look at")
    if not numbered and num_images > 1:
        raise VilaHDError(
            f"--guided-by {word!r}: there are {num_images} pictures, say which one, e.g. 1:{word}"
        )
    if not 1 <= number <= num_images:
        raise VilaHDError(f"--guided-by {word!r}: picture {number} of {num_images}; use 1 to {num_images}")
    return number, (x1, y1, x2, y2)
