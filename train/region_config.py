"""Where pictures with captioned regions come from and how they are prepared (``data.regions``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RegionSource:
    """One set of pictures with captioned regions."""

    name: str
    """What the log calls it."""

    path: str
    """Shards: a folder of ``.tar`` files or a pattern such as ``a/{000..199}.tar::b/*.tar``. Rows: a file of
    ``.json``, ``.jsonl``, ``.parquet`` or ``.arrow``, or a folder of the last two, such as ``datasets``
    saves."""

    weight: float = 1.0
    """Share of the samples, relative to the other sources."""

    media: Path | None = None
    """Folder that file names of pictures are relative to; None: the folder of the rows."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} of source {self.name!r}: use a number > 0")


@dataclass(frozen=True, kw_only=True)
class RegionDataConfig:
    """Pictures with captioned regions for ``ps3_pretrain``, instead of rendered scenes."""

    sources: tuple[RegionSource, ...]

    resize: Literal["squash", "fit"] = "squash"
    """``squash``: to a square, as published; ``fit``: keep the aspect ratio. Never enlarged: the tower
    resamples the patches that it looks at."""

    crop_area: tuple[float, float] = (0.9, 1.0)
    """Range of the share of a picture's area that a random crop keeps. Crops always hold the sampled
    boxes."""

    crop_aspect: float = 1.1
    """Largest factor between the aspect ratios of a crop and its picture."""

    min_visible: float = 0.5
    """Share of a box (not one that was sampled) that must lie inside of a crop to stay a target."""

    sentence_masking: bool = True
    """Cut captions to a random run of sentences, as published: texts are only some 60 tokens long."""

    shuffle_window: int = 4096
    """Consecutive samples of the shuffled shards among which samples are shuffled."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name at least one")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources {names}: give every source a name of its own")
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area={self.crop_area}: use two shares with 0 < low <= high <= 1")
        if not self.crop_aspect >= 1:
            raise ValueError(f"crop_aspect={self.crop_aspect}: use a factor >= 1")
        if not 0 <= self.min_visible <= 1:
            raise ValueError(f"min_visible={self.min_visible}: use a share from 0 to 1")
        if self.shuffle_window < 1:
            raise ValueError(f"shuffle_window={self.shuffle_window}: use a number >= 1")
