"""What a stage learns from: rendered scenes, or rows of data files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vila_hd import scenes

from ..region_config import RegionDataConfig


@dataclass(frozen=True, kw_only=True)
class CanvasConfig:
    """Pictures of a source pasted on large empty canvases; the place of the picture is the box of the row.

    Low-resolution questions and answers become ones that need a close look at the right place.
    """

    share: float = 1.0
    """Share of the source's samples that are pasted; the others stay as they are."""

    side: tuple[int, int] = (1024, 4096)
    """Smallest and largest longest side of a canvas in pixels."""

    picture_side: tuple[int, int] | None = (256, 512)
    """Pictures are made smaller so that their longest side lies in this range; None: they keep their size."""

    aspect: float = 1.0
    """Most extreme ratio of a canvas's sides; 1: squares."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: use a share above 0, up to 1")
        for name, limits in (("side", self.side), ("picture_side", self.picture_side)):
            if limits is not None and not 1 <= limits[0] <= limits[1]:
                raise ValueError(f"{name}={list(limits)}: use [smallest, largest] in pixels")
        if not 1 <= self.aspect <= 8:
            raise ValueError(f"aspect={self.aspect}: use a ratio from 1 to 8")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Rows of one file, folder or mixture; see docs/data.md for formats."""

    path: Path
    """A .json, .jsonl, .parquet, .arrow or .tar file, a folder of the last three, or a registry .yaml. The
    file name may hold ``*``: then all files that fit, in the order of their names."""

    mixture: str | None = None
    """Data sets of a registry, such as ``a+b*2``; None: all of them."""

    slices: Path | None = None
    """Folder of ``SUBSET/NAME.json`` for ``name@subset``."""

    media: Path | None = None
    """Folder of the pictures; None: that of ``path``. A registry says it itself."""

    convention: Literal["registry", "legacy", "interleaved"] = "registry"
    """Where pictures of LLaVA rows go; see ``llava_compat.data.Convention``. A registry says it itself."""

    rate: float = 1.0
    """How often each row is used in one pass over all sources: 0.1 uses a tenth of the rows, 3 all of them
    three times."""

    weight: float | None = None
    """Share of samples relative to the weights of the other sources, whatever their sizes; instead of
    ``rate``. All sources have one or none has."""

    canvas: CanvasConfig | None = None

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("weight", self.weight)):
            if value is not None and not 0 < value < 1e6:
                raise ValueError(f"{name}={value}: use a number above 0 (leave the source out instead of 0)")
        if self.weight is not None and self.rate != 1.0:
            raise ValueError("rate and weight exclude each other; keep one")
        is_registry = self.path.suffix.lower() in (".yaml", ".yml")
        if is_registry and (self.media is not None or self.convention != "registry"):
            raise ValueError(
                f"{self.path}: a registry's entries say where pictures are (media_dir, _target_); leave "
                "media and convention out"
            )
        if not is_registry and (self.mixture is not None or self.slices is not None):
            raise ValueError(f"{self.path}: mixture and slices need a registry .yaml as path")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Rendered scenes (picture ``i`` of a run is a pure function of ``(split, seed, i)``), or ``sources``."""

    sources: tuple[SourceConfig, ...] = ()
    """Data files to learn from. Without any, scenes are rendered; options of scenes are then not read."""

    max_length: int | None = None
    """Most tokens of a sample of ``sources``, all visual ones included; None: what the language model reads.
    Later turns are left out where it would be longer; a sample whose first turn is too long is replaced."""

    max_pictures: int | None = None
    """Most pictures of a sample of ``sources``, kept in the same way; None: any number."""

    max_broken: float = 0.01
    """Share of rows of ``sources`` that may be broken; above it, the run stops."""

    packing: bool = False
    """Run the samples of a micro-batch through the language model as one row without padding, each attending
    to itself only."""

    prefetch: int = 2
    """Micro-batches that each loader process prepares ahead (``num_workers`` > 0)."""

    split: Literal["train", "validation"] = "train"
    """Seed range of the generator; the test range is never trained on."""

    first_picture: int = 0
    """Number of the first picture inside the split, so that a later stage can start with fresh ones."""

    size: tuple[int, int] = (3840, 2160)
    """Width and height in pixels."""

    num_objects: int = 12
    """Signs per picture."""

    tiers: Mapping[scenes.Tier, float] | None = None
    """Share of each tier of marks; None: the generator's default."""

    items_per_picture: int = 4
    """Regions (``ps3_pretrain``) or questions (other stages) that share the low-resolution pass of one
    picture."""

    turns: int = 1
    """Questions asked one after the other about each look, in one conversation; all their boxes are given.
    Only the first one steers what else is looked at."""

    picture_repeats: int = 1
    """Times that a rendered picture is used, each time with other items: rendering costs more than a small
    model."""

    block_size: int = 64
    """Pictures between two uses of the same one; a process keeps its share of them in memory (25 MB each at
    4K)."""

    far_share: float = 0.0
    """Share of questions that need no high resolution (counts, time, place); the others ask for marks."""

    regions: RegionDataConfig | None = None
    """Pictures with captioned regions instead of scenes (``ps3_pretrain``); of the options of scenes, only
    ``items_per_picture`` counts then."""

    num_workers: int = 0
    """Loader processes per rank; 0 prepares samples in the training process, best when there are no spare
    cores."""

    def __post_init__(self) -> None:
        for name in (
            "items_per_picture",
            "turns",
            "picture_repeats",
            "block_size",
            "max_length",
            "max_pictures",
            "prefetch",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a number >= 1")
        for name in ("far_share", "max_broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a share from 0 to 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers}: use a number >= 0")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError("sources: some have a weight and some have none; give all or none")

    @property
    def samples_per_row(self) -> int:
        """Items that one row of the data set holds, for the log."""
        return 1 if self.sources else self.items_per_picture
