"""``python -m train.import_ps3``: shards of the published PS3 layout -> shards of captioned regions.

The published layout is two sets of shards: ``<key>.jpg`` in one, and in the other ``<key>.json`` with
``text`` and ``box`` (lists of equal length) and ``global_text``. Pairs are joined by key, whatever the order
in the files. Finished shards are skipped, so that an interrupted run goes on where it was.
"""

import argparse
import io
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from llava_compat.data import DataError
from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError
from vila_hd.images import ORIENTATION_TAG, ORIENTATIONS, image_size, open_image
from vila_hd.options import Box

from .data.region_rows import fit_boxes, parse_box, parse_captions
from .data.shards import ShardWriter, find_shards, is_image, iterate_members, read_index

logger = logging.getLogger(__name__)

SOURCES_NAME = "import.json"
"""File in the folder of new shards: names of those they are made from."""

NAMED_PROBLEMS = 5
"""Problems of each shard that are shown; all are counted."""


@dataclass(frozen=True)
class ImportOptions:
    """How to import."""

    out: Path | None
    """Folder of the new shards; None: only check."""

    decode: bool = False
    """Decode every picture instead of reading its header."""

    max_broken: float = 0.01
    """Share of samples that may be broken, per shard."""


def convert_entry(raw: Any) -> dict[str, Any]:
    """The row of one published JSON object.

    Raises:
        DataError: lists of different lengths, or what a row may not have.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"expected an object, got {type(raw).__name__}")
    texts, boxes = raw.get("text") or [], raw.get("box") or []
    if not isinstance(texts, list) or not isinstance(boxes, list):
        raise DataError("text and box: expected two lists")
    if len(texts) != len(boxes):
        raise DataError(f"{len(texts)} texts and {len(boxes)} boxes: expected as many of both")
    regions = [{"box": box, "caption": text} for text, box in zip(texts, boxes, strict=True)]
    row = {"regions": regions, "global_caption": raw.get("global_text") or None}
    said = parse_captions(row)
    return {
        "regions": [
            {"box": list(box), "caption": text} for box, text in zip(said.boxes, said.captions, strict=True)
        ],
        "global_caption": said.global_caption,
    }


def read_texts(shard: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Rows of a text shard by key, and what is wrong with the others by key."""
    rows: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for key, extension, content in iterate_members(shard):
        if extension != "json":
            continue
        if key in rows or key in problems:
            problems[key] = "two .json files of this key"
            rows.pop(key, None)
            continue
        try:
            rows[key] = convert_entry(json.loads(content))
        except (ValueError, RecursionError) as error:  # DataError is a ValueError
            problems[key] = str(error)
    return rows, problems


def turn_box(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box of a picture as it is stored, in the picture turned upright by its EXIF ``orientation``.

    Args:
        box: xyxy in pixels.
        orientation: 1 to 8.
        size: width and height as stored.
    """
    width, height = size
    x1, y1, x2, y2 = box
    if orientation in (2, 3):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4):
        y1, y2 = height - y2, height - y1
    if orientation in (7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (6, 7):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)


def fit_row(content: bytes, row: dict[str, Any], *, decode: bool) -> dict[str, Any]:
    """``row`` with boxes of the upright picture; the published ones are of the stored picture.

    Raises:
        VilaHDError: they do not fit the picture, or it cannot be read.
    """
    size = open_image(content).size if decode else image_size(content)
    with Image.open(io.BytesIO(content)) as stored:
        orientation, stored_size = stored.getexif().get(ORIENTATION_TAG, 1), stored.size
    boxes = [parse_box(region["box"]) for region in row["regions"]]
    if orientation in ORIENTATIONS:
        fit_boxes(boxes, stored_size)
        boxes = [turn_box(box, orientation, stored_size) for box in boxes]
    fitted = fit_boxes(boxes, size)
    regions = [{**region, "box": list(box)} for region, box in zip(row["regions"], fitted, strict=True)]
    return {**row, "regions": regions}


def import_shard(images: Path, texts: Path, name: str, options: ImportOptions) -> Counter[str]:
    """Join one pair of shards into ``options.out / name``.

    Returns:
        Numbers of ``samples`` and ``regions`` written, and of ``broken`` samples.

    Raises:
        VilaHDError: too many samples are broken, or a shard cannot be read.
    """
    if options.out is None:
        return _join(images, texts, None, options)
    with ShardWriter(options.out / name) as writer:
        return _join(images, texts, writer, options)


def _join(images: Path, texts: Path, writer: ShardWriter | None, options: ImportOptions) -> Counter[str]:
    """Give every picture its row, and both to ``writer``."""
    rows, problems = read_texts(texts)
    total = len(rows) + len(problems)
    counts: Counter[str] = Counter(samples=0, regions=0)
    seen: set[str] = set()
    for key, extension, content in iterate_members(images):
        if not is_image(extension):
            continue
        if key in seen:
            problems[key] = "two pictures of this key; the first one was taken"
            continue
        seen.add(key)
        if key not in rows:
            problems.setdefault(key, f"no .json in {texts.name}")
            continue
        row = rows[key]
        try:
            row = fit_row(content, row, decode=options.decode)
        except VilaHDError as error:
            problems[key] = str(error)
            continue
        counts.update(samples=1, regions=len(row["regions"]))
        if writer is not None:
            writer.add(key, {extension: content, "json": json.dumps(row, ensure_ascii=False).encode()})
    problems |= {key: f"no picture in {images.name}" for key in rows.keys() - seen}
    counts["broken"] = len(problems)
    _judge(problems, max(total, len(seen)), images, options)
    return counts


def _judge(problems: Mapping[str, str], total: int, shard: Path, options: ImportOptions) -> None:
    for key, problem in sorted(problems.items())[:NAMED_PROBLEMS]:
        logger.warning("%s/%s: %s", shard, key, problem)
    if len(problems) > NAMED_PROBLEMS:
        logger.warning("%s: %d more broken samples", shard, len(problems) - NAMED_PROBLEMS)
    if total == 0:
        raise VilaHDError(f"{shard}: no samples; check that the pattern names picture shards")
    if len(problems) > options.max_broken * total:
        raise VilaHDError(
            f"{shard}: {len(problems)} of {total} samples are broken, more than --max-broken "
            f"{options.max_broken:g}; see the warnings above"
        )


def import_all(images: Sequence[Path], texts: Sequence[Path], options: ImportOptions) -> Counter[str]:
    """Import pairs of shards in order; finished ones are skipped.

    Raises:
        VilaHDError: the two lists have different lengths, or a pair fails.
    """
    if len(images) != len(texts):
        raise VilaHDError(
            f"{len(images)} shards of pictures and {len(texts)} of texts: give as many of both, in one order"
        )
    finished = {}
    if options.out is not None:
        _remember_sources(options.out, images, texts)
        finished = read_index(options.out)
    total: Counter[str] = Counter()
    started = time.monotonic()
    for number, (image_shard, text_shard) in enumerate(zip(images, texts, strict=True)):
        name = f"{number:06d}.tar"
        done = f"[{number + 1}/{len(images)}] {image_shard.name}"
        if name in finished and options.out is not None and (options.out / name).is_file():
            logger.info("%s: finished already (%d samples)", done, finished[name])
            total["samples"] += finished[name]
            continue
        counts = import_shard(image_shard, text_shard, name, options)
        total.update(counts)
        logger.info(
            "%s: %d samples, %d regions, %d broken, %.0f s so far",
            done, counts["samples"], counts["regions"], counts["broken"], time.monotonic() - started,
        )  # fmt: skip
    return total


def _remember_sources(out: Path, images: Sequence[Path], texts: Sequence[Path]) -> None:
    """Note in ``out`` what it is made from.

    Raises:
        VilaHDError: it was made from something else, so that its finished shards must not be skipped.
    """
    path = out / SOURCES_NAME
    sources = {"images": [shard.name for shard in images], "texts": [shard.name for shard in texts]}
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")) != sources:
        raise VilaHDError(f"{out} was made from other shards (see {path}): use another --out")


def build_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train.import_ps3``."""
    parser = argparse.ArgumentParser(
        prog="python -m train.import_ps3",
        description="Join picture shards and text-box shards of the published PS3 layout into shards of "
        "regions that data.regions reads. Finished shards are skipped.",
    )
    parser.add_argument("--images", required=True, help="folder or pattern, e.g. 'img/{00000..00099}.tar'")
    parser.add_argument("--texts", required=True, help="folder or pattern of as many shards, in one order")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder of the new shards")
    target.add_argument("--check", action="store_true", help="write nothing, only look for problems")
    parser.add_argument("--decode", action="store_true", help="decode whole pictures, not only headers")
    parser.add_argument("--max-broken", type=float, default=0.01, help="share of a shard (default: 0.01)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 on bad input, 130 on Ctrl-C."""

    def command() -> int:
        args = build_parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        options = ImportOptions(out=args.out, decode=args.decode, max_broken=args.max_broken)
        total = import_all(find_shards(args.images), find_shards(args.texts), options)
        where = "checked" if args.out is None else f"in {args.out}"
        print(f"{total['samples']} samples, {total['broken']} broken, {where}")
        return 0

    return run_command(
        command, interrupted="interrupted; the same command goes on after the last finished shard"
    )


if __name__ == "__main__":
    sys.exit(main())
