"""What an answer looked at (Look) and what it cost (Receipt): plain data, filled by generation."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import VilaHDError

PHASES = {
    "read": "read",
    "low_res": "low-res",
    "choose": "choose",
    "high_res": "high-res",
    "language": "language",
}
"""Phases of one answer in the order in which they happen, with the words that are printed."""


@dataclass(frozen=True)
class LookSummary:
    """One picture of one answer in numbers: everything a receipt prints, nothing as large as a map."""

    original_size: tuple[int, int]
    """(width, height) in pixels as opened, after EXIF rotation."""

    processed_size: tuple[int, int]
    """(width, height) in pixels of the picture that the tower saw."""

    scales: tuple[int, ...]
    """High-resolution scales in pixels, ascending."""

    chosen: tuple[tuple[int, int], ...]
    """Per scale: (patches chosen, patches there are)."""

    num_passes: int
    """High-resolution encodings; 0 when nothing was chosen."""

    low_res_tokens: int
    """Low-resolution visual tokens that reached the language model."""

    high_res_tokens: int
    """High-resolution visual tokens that reached the language model."""

    coverage: float
    """Share of the picture's area, 0 to 1, covered by the union of the chosen patches of all scales."""

    kept: int = 0
    """How many of the chosen patches were kept from the answer before; the others are new."""

    @property
    def num_chosen(self) -> int:
        """Patches chosen over all scales."""
        return sum(chosen for chosen, _ in self.chosen)

    @property
    def visual_tokens(self) -> int:
        """All visual tokens of this picture that reached the language model."""
        return self.low_res_tokens + self.high_res_tokens

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values."""
        return {
            "original_size": list(self.original_size),
            "processed_size": list(self.processed_size),
            "scales": [
                {"scale": scale, "chosen": chosen, "patches": total}
                for scale, (chosen, total) in zip(self.scales, self.chosen, strict=True)
            ],
            "passes": self.num_passes,
            "low_res_tokens": self.low_res_tokens,
            "high_res_tokens": self.high_res_tokens,
            "coverage": self.coverage,
            "kept_patches": self.kept,
        }


@dataclass(frozen=True, eq=False)
class Look:
    """What the model chose to look at in one picture of one answer.

    The grid of every scale spans the whole picture: patch (row, column) of a (rows, columns) grid covers the
    rectangle from (column / columns, row / rows) to ((column + 1) / columns, (row + 1) / rows) of it.
    """

    scales: tuple[int, ...]
    """High-resolution scales in pixels, ascending."""

    low_scale: int
    """The low-resolution scale in pixels (a square, whatever the picture's shape)."""

    patch_size: int
    """Patch side in pixels."""

    scores: Tensor
    """(g0, g0) float32 on the CPU: the score of each low-resolution cell, 0 to 1."""

    pass_maps: tuple[Tensor, ...]
    """Per high scale (rows, columns) int16 on the CPU: 0 = not chosen, k = chosen in pass k."""

    processed_size: tuple[int, int]
    """(width, height) in pixels of the picture that the tower saw."""

    original_size: tuple[int, int]
    """(width, height) in pixels as opened, after EXIF rotation."""

    low_res_tokens: int
    """Low-resolution visual tokens that reached the language model."""

    high_res_tokens: int
    """High-resolution visual tokens that reached the language model."""

    resample: Literal["bicubic", "antialias"] = "antialias"
    """How the tower resized the picture to its scales: the tower configuration's ``resample``."""

    kept_passes: int = 0
    """The first so many passes were kept from the answer before."""

    def __post_init__(self) -> None:
        if len(self.pass_maps) != len(self.scales):
            raise VilaHDError(
                f"{len(self.pass_maps)} pass maps for {len(self.scales)} scales {self.scales}: "
                "give one map per scale"
            )
        if list(self.scales) != sorted(set(self.scales)):
            raise VilaHDError(f"scales {self.scales}: give every scale once, low to high")
        if self.scores.ndim != 2:
            raise VilaHDError(f"scores of shape {tuple(self.scores.shape)}: give one (rows, columns) map")
        for scale, pass_map in zip(self.scales, self.pass_maps, strict=True):
            if pass_map.ndim != 2 or not pass_map.numel():
                raise VilaHDError(
                    f"pass map of scale {scale} has shape {tuple(pass_map.shape)}: "
                    "give one (rows, columns) map"
                )

    @property
    def num_passes(self) -> int:
        """The highest pass number in use; 0 when nothing was chosen."""
        return max((int(pass_map.max()) for pass_map in self.pass_maps), default=0)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) per high scale."""
        return tuple((pass_map.shape[0], pass_map.shape[1]) for pass_map in self.pass_maps)

    def chosen(self, scale_index: int) -> Tensor:
        """(rows, columns) bool: the patches of high scale ``scale_index`` that were chosen in any pass.

        Raises:
            VilaHDError: there is no such scale.
        """
        if not 0 <= scale_index < len(self.scales):
            raise VilaHDError(f"scale index {scale_index}: this look has {len(self.scales)} high-res scales")
        return self.pass_maps[scale_index] > 0

    @property
    def coverage(self) -> float:
        """Exact share of the picture's area, 0 to 1, under the union of the chosen patches of all scales."""
        return covered_share(self.chosen(index) for index in range(len(self.scales)))

    def summary(self) -> LookSummary:
        """This look in numbers, for a receipt."""
        return LookSummary(
            original_size=self.original_size,
            processed_size=self.processed_size,
            scales=self.scales,
            chosen=tuple((int((pass_map > 0).sum()), pass_map.numel()) for pass_map in self.pass_maps),
            num_passes=self.num_passes,
            low_res_tokens=self.low_res_tokens,
            high_res_tokens=self.high_res_tokens,
            coverage=self.coverage,
            kept=sum(
                int(((pass_map > 0) & (pass_map <= self.kept_passes)).sum()) for pass_map in self.pass_maps
            ),
        )


@dataclass(frozen=True)
class Receipt:
    """What one answer cost and how closely it looked."""

    looks: tuple[LookSummary, ...]
    """One summary per picture, in the order in which the pictures were given."""

    prompt_tokens: int
    """Text tokens of the prompt (visual tokens are counted per look)."""

    new_tokens: int
    """Tokens of the answer."""

    seconds: Mapping[str, float]
    """Seconds per phase; the phases are the keys of ``PHASES``."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.seconds) - set(PHASES))
        if unknown:
            raise VilaHDError(f"unknown phase(s) {unknown}: the phases of an answer are {list(PHASES)}")
        object.__setattr__(self, "seconds", dict(self.seconds))

    @classmethod
    def from_looks(
        cls, looks: Iterable[Look], *, prompt_tokens: int, new_tokens: int, seconds: Mapping[str, float]
    ) -> "Receipt":
        """The receipt of an answer that looked at its pictures like this."""
        summaries = tuple(look.summary() for look in looks)
        return cls(looks=summaries, prompt_tokens=prompt_tokens, new_tokens=new_tokens, seconds=seconds)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of all pictures that reached the language model."""
        return sum(look.visual_tokens for look in self.looks)

    @property
    def total_seconds(self) -> float:
        """Seconds over all phases."""
        return math.fsum(self.seconds.values())

    def lines(self) -> list[str]:
        """The receipt as aligned text lines without a newline, ready to print."""
        rows: list[tuple[str, str]] = []
        for number, look in enumerate(self.looks, start=1):
            rows.append(("picture" if len(self.looks) == 1 else f"picture {number}", _describe_size(look)))
            rows.append(("looked at", _describe_choice(look)))
            rows.append(("visual tokens", _describe_tokens(look)))
        rows.append(("text tokens", f"{self.prompt_tokens:,} prompt + {self.new_tokens:,} new"))
        if self.seconds:
            parts = [f"{word} {self.seconds[key]:.2f}" for key, word in PHASES.items() if key in self.seconds]
            rows.append(("seconds", f"{self.total_seconds:.2f} = " + " + ".join(parts)))
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {text}" for name, text in rows]

    def to_dict(self) -> dict[str, Any]:
        """The receipt as JSON-ready values."""
        return {
            "looks": [look.to_dict() for look in self.looks],
            "visual_tokens": self.visual_tokens,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "seconds": {key: self.seconds[key] for key in PHASES if key in self.seconds},
            "total_seconds": self.total_seconds,
        }


def covered_share(masks: Iterable[Tensor]) -> float:
    """Exact share of the unit square covered by the union of the True cells of grids that all span it.

    Grids need not be multiples of each other: the cells are cut at every boundary of every grid and the
    pieces are summed as integers, so the result is the true ratio rounded once.

    Args:
        masks: bool tensors of shape (rows, columns), one per grid; none at all covers nothing.
    """
    grids = [mask.numpy() for mask in masks]
    if not grids:
        return 0.0
    y_edges, height = _merged_edges([grid.shape[0] for grid in grids])
    x_edges, width = _merged_edges([grid.shape[1] for grid in grids])
    union = np.zeros((len(y_edges) - 1, len(x_edges) - 1), dtype=bool)
    for grid in grids:
        rows = y_edges[:-1] * grid.shape[0] // height
        columns = x_edges[:-1] * grid.shape[1] // width
        union |= grid[np.ix_(rows, columns)]
    covered_per_row = union.astype(np.int64) @ np.diff(x_edges)
    # Python integers: the product of both sides may pass 64 bits for grids without common factors.
    area = sum(int(h) * int(w) for h, w in zip(np.diff(y_edges), covered_per_row, strict=True))
    return area / (height * width)


def _merged_edges(counts: list[int]) -> tuple[np.ndarray, int]:
    """All cell boundaries of grids with ``counts`` cells per side, as integers from 0 to a length."""
    length = math.lcm(*counts)
    edges = [np.arange(count + 1, dtype=np.int64) * (length // count) for count in counts]
    return np.unique(np.concatenate(edges)), length


def _describe_size(look: LookSummary) -> str:
    """The sizes of a picture in words."""
    text = "{} x {} px".format(*look.original_size)
    if look.processed_size != look.original_size:
        text += ", read as {} x {} px".format(*look.processed_size)
    return text


def _describe_tokens(look: LookSummary) -> str:
    """The visual tokens of a picture in words."""
    if not look.scales:
        return f"{look.visual_tokens:,}"
    return f"{look.low_res_tokens:,} low-res + {look.high_res_tokens:,} high-res = {look.visual_tokens:,}"


def _describe_choice(look: LookSummary) -> str:
    """The chosen patches of a picture in words."""
    if not look.scales:
        return "the whole picture at once"
    if not look.num_chosen:
        return "the low-res view only"
    parts = [
        f"{chosen:,} of {total:,} patches at {scale:,} px"
        for scale, (chosen, total) in zip(look.scales, look.chosen, strict=True)
    ]
    passes = "1 pass" if look.num_passes == 1 else f"{look.num_passes} passes"
    added = f", {look.num_chosen - look.kept:,} patches added to {look.kept:,} kept" if look.kept else ""
    return f"{', '.join(parts)}: {format_share(look.coverage)} of the picture, {passes}{added}"


def format_share(share: float) -> str:
    """A share between 0 and 1 in percent, never rounded to 0 % or 100 % unless it is exactly that."""
    percent = 100.0 * share
    if 0.0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100.0:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent % 1.0 else f"{percent:.0f} %"


def empty_pass_maps(grids: Iterable[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Pass maps of a look that chose nothing: one zero map (rows, columns) int16 per grid."""
    return tuple(torch.zeros(rows, columns, dtype=torch.int16) for rows, columns in grids)
