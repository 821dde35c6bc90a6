"""Pictures with captioned regions as files hold them: ``{image, regions: [{box, caption}], global_caption}``.

A source is read at random places. Shards hold the picture as ``<key>.jpg`` (or another format) and the rest
as ``<key>.json``; rows of the ``datasets`` package hold everything.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from llava_compat.data import DataError, ImageReference
from llava_compat.data.media import make_reference
from llava_compat.data.problems import brief
from llava_compat.data.tables import open_table
from vila_hd.errors import VilaHDError
from vila_hd.options import Box

from ..region_config import RegionSource
from .shards import count_samples, find_shards, is_image, read_at, scan_shard

ROWS_PER_SHARD = 1024
"""Consecutive rows of a table that are read around the same time."""


@dataclass(frozen=True)
class Captions:
    """Everything that is said about one picture."""

    boxes: tuple[Box, ...]
    """Pixels of the upright picture, xyxy."""

    captions: tuple[str, ...]
    """One per box."""

    global_caption: str | None
    """Of the whole picture; None: there is none."""


@dataclass(frozen=True)
class RegionRecord:
    """One sample, not decoded yet."""

    name: str
    """Shard and key, or file and row: what to look at when it is broken. The same in every process."""

    image: ImageReference

    captions: Captions


def parse_captions(raw: Any) -> Captions:
    """Validated captions of one sample.

    Args:
        raw: a mapping with ``regions`` (objects of ``box`` and ``caption``) and ``global_caption``; one of
            both may be missing, other keys are not read.

    Raises:
        DataError: another form, a caption without words, or nothing to learn from.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"sample {brief(raw)}: expected an object with regions and global_caption")
    regions, whole = raw.get("regions"), raw.get("global_caption")
    regions = _as_list(regions)
    if whole is not None and not isinstance(whole, str):
        raise DataError(f"global_caption {brief(whole)}: expected a text")
    boxes, captions = [], []
    for region in regions:
        if not isinstance(region, Mapping) or not {"box", "caption"} <= set(region):
            raise DataError(f"region {brief(region)}: expected an object with box and caption")
        caption = region["caption"]
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(f"caption {brief(caption)}: expected a text", kind="empty text")
        boxes.append(parse_box(region["box"]))
        captions.append(caption.strip())
    whole = whole.strip() if whole else None
    if not boxes and not whole:
        raise DataError("no region and no global_caption: nothing to learn from", kind="empty text")
    return Captions(tuple(boxes), tuple(captions), whole or None)


def _as_list(regions: Any) -> Sequence[Any]:
    if regions is None:
        return ()
    if isinstance(regions, Mapping) and {"box", "caption"} <= set(regions):
        # Some tables store a list of objects as an object of lists.
        if len(regions["box"]) != len(regions["caption"]):
            raise DataError(f"regions: {len(regions['box'])} boxes, {len(regions['caption'])} captions")
        return [
            {"box": box, "caption": text}
            for box, text in zip(regions["box"], regions["caption"], strict=True)
        ]
    if not isinstance(regions, Sequence) or isinstance(regions, str):
        raise DataError(f"regions {brief(regions)}: expected a list")
    return regions


def parse_box(value: Any) -> Box:
    """``x1 y1 x2 y2`` in pixels, with an area.

    Raises:
        DataError: anything else.
    """
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 4 or any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
        raise DataError(f"box {brief(value)}: give four numbers (x1, y1, x2, y2) in pixels", kind="box")
    x1, y1, x2, y2 = (float(x) for x in numbers)
    if not (0 <= x1 < x2 < math.inf and 0 <= y1 < y2 < math.inf):  # also false for NaN
        raise DataError(f"box {brief(value)}: expected 0 <= x1 < x2 and 0 <= y1 < y2, in pixels", kind="box")
    return (x1, y1, x2, y2)


def fit_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> list[Box]:
    """Boxes cut to a picture of ``size`` (width, height); a box may leave it by a pixel of rounding.

    Raises:
        DataError: it leaves it further: box and picture do not belong together.
    """
    width, height = size
    for box in boxes:
        if box[2] > width + 1 or box[3] > height + 1 or box[0] >= width or box[1] >= height:
            raise DataError(f"box {list(box)} leaves the picture of {width} x {height} pixels", kind="box")
    return [(x1, y1, min(x2, float(width)), min(y2, float(height))) for x1, y1, x2, y2 in boxes]


class RegionReader(Protocol):
    """Random access to the samples of one source."""

    @property
    def counts(self) -> Sequence[int]:
        """Samples per shard."""
        ...

    def read(self, shard: int, number: int) -> RegionRecord:
        """One sample.

        Raises:
            DataError: it is broken; the message names the place.
        """
        ...


class ShardSamples:
    """Samples of tar shards."""

    def __init__(self, spec: str) -> None:
        """Open the shards of ``spec``; see ``find_shards``."""
        self.shards = find_shards(spec)
        self.counts = count_samples(self.shards)

    def read(self, shard: int, number: int) -> RegionRecord:
        """Sample ``number`` of those with a ``.json``."""
        path = self.shards[shard]
        samples = _samples_of(path)
        if len(samples) != self.counts[shard]:
            raise VilaHDError(
                f"{path}: {len(samples)} samples, the index says {self.counts[shard]}: remove shards.json "
                "beside it to have shards counted again"
            )
        key, members = samples[number]
        # The folder is left out: a moved copy must give the same numbers.
        name = f"{path.name}/{key}"
        try:
            raw = json.loads(read_at(path, members["json"]))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}/{key}: .json is not JSON ({error})", kind="broken file") from error
        pictures = [extension for extension in members if is_image(extension)]
        if len(pictures) != 1:
            raise DataError(f"{path}/{key}: {len(pictures)} pictures; one is needed", kind="image count")
        try:
            captions = parse_captions(raw)
        except DataError as error:
            raise DataError(f"{path}/{key}: {error}", kind=error.kind) from error
        image = ImageReference(f"{path}/{key}.{pictures[0]}", read_at(path, members[pictures[0]]))
        return RegionRecord(name, image, captions)


@lru_cache(maxsize=16)
def _samples_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(key, members) for key, members in scan_shard(path).items() if "json" in members]


class TableSamples:
    """Rows of JSON, JSONL, parquet or arrow files, such as the ``datasets`` package writes."""

    def __init__(self, spec: str, media: Path | None) -> None:
        """Open a file, or a folder of shards."""
        path = Path(spec)
        self.spec = spec
        self.media = media or (path if path.is_dir() else path.parent)
        self.rows = open_table(path)
        total = len(self.rows)
        self.counts = [min(ROWS_PER_SHARD, total - start) for start in range(0, total, ROWS_PER_SHARD)]

    def read(self, shard: int, number: int) -> RegionRecord:
        """One row."""
        index = shard * ROWS_PER_SHARD + number
        source, value = self.rows.read(index)
        if isinstance(value, DataError):
            raise value
        try:
            captions = parse_captions(value)
            image = make_reference(value.get("image"), self.media, check_files=True)
        except DataError as error:
            raise error.at(source, None) from error
        return RegionRecord(f"{Path(self.spec).name}#{index}", image, captions)


def open_source(source: RegionSource) -> RegionReader:
    """The reader of one source.

    Raises:
        VilaHDError: nothing is there, or no sample is in it.
    """
    path = Path(source.path)
    is_shards = ".tar" in source.path or (path.is_dir() and any(path.glob("*.tar")))
    reader: RegionReader = ShardSamples(source.path) if is_shards else TableSamples(source.path, source.media)
    if not sum(reader.counts):
        raise VilaHDError(f"source {source.name}: no samples in {source.path!r}")
    return reader
