"""What is done for one picture, and packing the result into shards."""

import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from llava_compat.data import DataError
from llava_compat.data.media import make_reference
from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import get_logger

from ..data.region_rows import fit_boxes, parse_box, parse_captions
from ..data.shards import ShardWriter, read_index
from .captioners import Captioner, limit_pixels
from .rows import PictureError, Row, read_rows
from .saliency import BoxOptions, Mask, candidate_boxes, pick_boxes, score_boxes

logger = get_logger(__name__)


def open_picture(media: Path, name: str) -> Image.Image:
    """The picture, upright RGB.

    Raises:
        PictureError: it is missing, damaged, or outside of ``media``.
    """
    try:
        return make_reference(name, media, check_files=True).open()
    except DataError as error:
        raise PictureError(str(error)) from error


def propose_row(
    row: Row, media: Path, masks: Callable[[Image.Image], list[Mask]], options: BoxOptions
) -> Row:
    """Boxes of one picture with their scores, best first.

    Raises:
        PictureError: it cannot be read, or nothing in it is salient.
    """
    picture = open_picture(media, row["image"])
    boxes = candidate_boxes(picture.size, options)
    scores = score_boxes(boxes, masks(picture), picture.size)
    taken = pick_boxes(boxes, scores, options.top_k)
    if not taken:
        raise PictureError("no box with any segment in it")
    regions = [
        {"box": [int(x) for x in np.rint(boxes[i])], "score": round(float(scores[i]), 4)} for i in taken
    ]
    return {"image": row["image"], "size": list(picture.size), "regions": regions}


def caption_row(
    row: Row, media: Path, captioner: Captioner, *, region_prompt: str, global_prompt: str
) -> Row:
    """A row with words: of every box, shown the picture and the crop, and of the picture.

    Args:
        row: from ``propose_row``.
        media: folder of the pictures.
        captioner: shown at most some 200 000 pixels per picture.
        region_prompt: for two pictures, the whole one and the crop.
        global_prompt: for the whole one; empty: no global caption.

    Raises:
        PictureError: the picture, a box or a caption is not to be had.
    """
    picture = open_picture(media, row["image"])
    try:
        boxes = fit_boxes([parse_box(region["box"]) for region in row["regions"]], picture.size)
    except (DataError, KeyError, TypeError) as error:
        raise PictureError(f"regions: {error}") from error
    small = limit_pixels(picture)
    regions = []
    for region, box in zip(row["regions"], boxes, strict=True):
        x1, y1, x2, y2 = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
        crop = limit_pixels(picture.crop((int(x1), int(y1), int(x2), int(y2))))
        regions.append({**region, "caption": captioner([small, crop], region_prompt)})
    whole = captioner([small], global_prompt) if global_prompt else None
    return {**row, "regions": regions, "global_caption": whole}


def question_row(row: Row, captioner: Captioner, *, prompt: str, seed: int) -> Row:
    """A row of question and answer with its box, for the stages ``select`` and ``sft``; see docs/data.md.

    Args:
        row: with captioned regions; one of them is drawn, the same whenever the picture has the same name.
        captioner: given no picture.
        prompt: with ``{caption}`` in it.
        seed: of the draw.

    Raises:
        PictureError: there are no regions, or no question is to be had.
    """
    try:
        said = parse_captions(row)
    except DataError as error:
        raise PictureError(str(error)) from error
    if not said.boxes:
        raise PictureError("no region to ask about")
    number = random.Random(f"{seed}/{row['image']}").randrange(len(said.boxes))
    question = captioner([], prompt.replace("{caption}", said.captions[number]))
    turns = [
        {"from": "human", "value": f"<image>\n{question}"},
        {"from": "gpt", "value": said.captions[number]},
    ]
    box = list(said.boxes[number])
    return {"id": f"{row['image']}#{number}", "image": row["image"], "box": box, "conversations": turns}


def pack_rows(
    files: Sequence[Path], media: Path, out: Path, *, per_shard: int, sides: tuple[int, int] = (0, 2**31)
) -> tuple[int, int]:
    """Write the pictures of finished rows and their captions into shards; finished shards are skipped.

    Args:
        files: rows.
        media: folder of the pictures.
        out: folder of the shards.
        per_shard: samples of each but the last one.
        sides: least and most pixels of the longest side; other pictures are left out.

    Returns:
        Numbers of samples and of shards.

    Raises:
        VilaHDError: a row or its picture does not fit; nothing of its shard is kept.
    """
    rows: Iterable[Row] = itertools.chain.from_iterable(read_rows(path) for path in files)
    if sides != (0, 2**31):
        rows = (row for row in rows if sides[0] <= max(_size(row, media)) <= sides[1])
    finished = read_index(out)
    samples = shards = 0
    for number, group in enumerate(_groups(rows, per_shard)):
        name = f"{number:06d}.tar"
        if name in finished and (out / name).is_file():
            if finished[name] != len(group):
                raise VilaHDError(
                    f"{out / name} has {finished[name]} samples, expected {len(group)}: use a new --out"
                )
        else:
            with ShardWriter(out / name) as writer:
                for i, row in enumerate(group):
                    _pack_row(writer, f"{number:06d}{i:06d}", row, media)
            logger.info("%s: %d samples", out / name, len(group))
        samples, shards = samples + len(group), shards + 1
    return samples, shards


def _groups(rows: Iterable[Row], size: int) -> Iterable[list[Row]]:
    rows = iter(rows)
    while group := list(itertools.islice(rows, size)):
        yield group


def _size(row: Row, media: Path) -> tuple[int, int]:
    try:
        return make_reference(row["image"], media, check_files=True).size()
    except DataError as error:
        raise VilaHDError(f"{row['image']}: {error}") from error


def _pack_row(writer: ShardWriter, key: str, row: Row, media: Path) -> None:
    try:
        reference = make_reference(row["image"], media, check_files=True)
        assert isinstance(reference.picture, Path)
        said = parse_captions(row)
        fit_boxes(said.boxes, reference.size())
        content = reference.picture.read_bytes()
    except (DataError, OSError) as error:
        raise VilaHDError(f"{row['image']}: {error}") from error
    kept = {"regions": row["regions"], "global_caption": row.get("global_caption"), "source": row["image"]}
    text = json.dumps(kept, ensure_ascii=False).encode()
    writer.add(key, {reference.picture.suffix.lower().lstrip("."): content, "json": text})
