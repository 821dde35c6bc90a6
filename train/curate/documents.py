"""Captions of document pages: the words that OCR found, no model needed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llava_compat.data import DataError
from vila_hd.options import Box
from vila_hd.utils.imports import import_optional

from ..data.region_rows import parse_box
from .rows import PictureError, Row

Unit = Literal["lines", "words"]
"""``lines``: box and text of one line or sentence (paper: IDL); ``words``: of consecutive words (PDFA)."""


class Words(NamedTuple):
    """A text and where it stands."""

    text: str
    box: Box


@dataclass(frozen=True)
class DocumentOptions:
    """How regions are drawn from a page."""

    unit: Unit = "lines"
    run: int = 15
    """Consecutive words of a region, with ``words`` (paper: 15)."""

    regions: int = 4
    """Regions of a page, at most (paper: 4)."""

    seed: int = 0


def parse_page(row: Mapping[str, Any], unit: Unit) -> list[Words]:
    """Texts of a page in reading order; empty ones are left out.

    Args:
        row: with the list ``lines`` or ``words`` of objects with ``text`` and ``box``.
        unit: which list.

    Raises:
        PictureError: another form.
    """
    entries = row.get(unit)
    if not isinstance(entries, list):
        raise PictureError(f"no list {unit!r}; keys are {', '.join(sorted(row))}")
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("text"), str):
            raise PictureError(f"{unit}: expected objects with text and box, got {str(entry)[:80]}")
        text = " ".join(entry["text"].split())
        if text:
            try:
                found.append(Words(text, parse_box(entry.get("box"))))
            except DataError as error:
                raise PictureError(f"{unit}: {error}") from error
    return found


def draw_regions(texts: Sequence[Words], name: str, options: DocumentOptions) -> list[dict[str, Any]]:
    """Random regions of one page, the same whenever the page has the same name.

    Runs of words do not share words; each is the union box and the joined text.
    """
    generator = random.Random(f"{options.seed}/{name}")
    length = options.run if options.unit == "words" else 1
    # A page with few words is one region.
    starts = list(range(0, max(1, len(texts) - length + 1), length)) if texts else []
    shift = generator.randrange(len(texts) - length - starts[-1] + 1) if len(texts) > length else 0
    chosen = sorted(generator.sample(starts, min(options.regions, len(starts))))
    groups = [texts[start + shift : start + shift + length] for start in chosen]
    return [
        {"box": list(_union(group)), "caption": " ".join(part.text for part in group)} for group in groups
    ]


def _union(group: Sequence[Words]) -> Box:
    boxes = list(zip(*(part.box for part in group), strict=True))
    return (min(boxes[0]), min(boxes[1]), max(boxes[2]), max(boxes[3]))


def make_document_row(row: Row, options: DocumentOptions) -> Row:
    """Regions of a page whose texts are known; pages have no global caption (paper).

    Raises:
        PictureError: there are no texts, or they have another form.
    """
    regions = draw_regions(parse_page(row, options.unit), row["image"], options)
    if not regions:
        raise PictureError("a page without any text")
    return {"image": row["image"], "regions": regions, "global_caption": None}


def recognise(picture: Any, language: str) -> Row:
    """``words`` and ``lines`` of a picture by Tesseract.

    Raises:
        VilaHDError: pytesseract is not installed.
        PictureError: Tesseract failed.
    """
    tesseract = import_optional(
        "pytesseract", extra="train", purpose="--ocr tesseract (pip install pytesseract)"
    )
    try:
        data = tesseract.image_to_data(picture, lang=language, output_type=tesseract.Output.DICT)
    except (tesseract.TesseractError, RuntimeError) as error:
        raise PictureError(f"Tesseract: {error}") from error
    words: list[Words] = []
    lines: dict[tuple[int, int, int], list[Words]] = {}
    for i, text in enumerate(data["text"]):
        if not text.strip():
            continue
        left, top = float(data["left"][i]), float(data["top"][i])
        word = Words(text.strip(), (left, top, left + data["width"][i], top + data["height"][i]))
        words.append(word)
        place = (data["block_num"][i], data["par_num"][i], data["line_num"][i])
        lines.setdefault(place, []).append(word)
    joined = [Words(" ".join(part.text for part in group), _union(group)) for group in lines.values()]
    return {
        unit: [{"text": entry.text, "box": list(entry.box)} for entry in entries]
        for unit, entries in (("words", words), ("lines", joined))
    }
