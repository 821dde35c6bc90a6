"""Choosing which high-resolution patches to encode. Pure functions: no parameters, no module state.

Vocabulary: a *look* is one use of one picture. A *flat index* counts the patches of all high-resolution
    scales of one
picture: scales ascending, row-major inside a scale. Equal scores are taken in the order of the flat index.

Shape suffixes used in this file:
    L = looks, g = side of the low-resolution grid, r/c = rows/columns of one scale's grid, N = patches of
    one scale, K = chosen patches.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..errors import VilaHDError
from .plans import PassPlan
from .regions import Regions

Grids = tuple[tuple[int, int], ...]
"""Rows and columns of patches per high-resolution scale."""

_SMOOTH_BLOCKS = 6

_SEED_SIDE = 128
"""About so many rows and columns of a picture decide its random scores."""


def score_maps(
    scores: Tensor, grids: Sequence[Grids], *, regions: Regions | None = None, smooth: bool = False
) -> list[list[Tensor]]:
    """Return the scores as every scale sees them, per look and scale ``(r, c)``.

    Args:
        scores: ``(L, g, g)`` in any float dtype.
        grids: one entry per look.
        regions: patches in them get score 1, which no other patch reaches.
        smooth: average over 6 x 6 blocks at the end.
    """
    maps: list[list[Tensor]] = [[] for _ in grids]
    for shared, looks in group_looks(grids).items():
        part = scores if len(looks) == len(grids) else scores[looks]
        forced = None if regions is None else regions.subset(looks).to(scores.device).on_scales(shared)
        for i, grid in enumerate(shared):
            stretched = F.interpolate(part[:, None].float(), size=grid, mode="nearest").to(scores.dtype)[:, 0]
            if forced is not None:
                stretched = stretched.masked_fill(forced[i], 1.0)
            if smooth:
                blocks = F.adaptive_avg_pool2d(stretched[:, None], _SMOOTH_BLOCKS)
                stretched = F.interpolate(blocks.float(), size=grid, mode="nearest").to(scores.dtype)[:, 0]
            for look, entry in zip(looks, stretched, strict=True):
                maps[look].append(entry)
    return maps


def random_scores(pictures: Sequence[Tensor], grid: int) -> Tensor:
    """Return uniform scores ``(B, grid, grid)``, float32 on the CPU, to choose patches at random.

    They are drawn from the pixels themselves: the same picture gets the same scores whatever batch, process
    or run it is in.
    """
    drawn = []
    for picture in pictures:
        step = max(1, min(picture.shape[1:]) // _SEED_SIDE)
        pixels = picture[:, ::step, ::step].contiguous().cpu()
        seed = zlib.crc32(pixels.view(torch.uint8).numpy().tobytes())
        drawn.append(torch.rand(grid, grid, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(drawn)


def group_looks(grids: Sequence[Grids]) -> dict[Grids, list[int]]:
    """Return the looks that share each set of grids."""
    groups: dict[Grids, list[int]] = {}
    for look, entry in enumerate(grids):
        groups.setdefault(entry, []).append(look)
    return groups


@torch.compiler.disable  # its sizes depend on the scores
def choose_patches(
    scores: Tensor,
    grids: Sequence[Grids],
    plans: Sequence[PassPlan],
    *,
    regions: Regions | None = None,
    smooth: bool = False,
    allowed: Sequence[Sequence[Tensor]] | None = None,
) -> "PatchSelection":
    """Take the best-scored patches of every scale, pass by pass, never a patch twice.

    Args:
        scores: ``(L, g, g)``, higher is more interesting.
        grids: one entry per look.
        plans: one entry per look: how many patches each pass takes from each scale.
        regions: patches in them come first.
        smooth: see ``score_maps``.
        allowed: per look and scale ``(r, c)`` bool: nothing is taken where it is False; None: all may be.

    Raises:
        VilaHDError: a score is not a number, or a plan takes more patches than a scale has.
    """
    if not bool(torch.isfinite(scores).all()):
        raise VilaHDError(
            "the selection scores contain NaN or infinity: check the weights and the picture's values"
        )
    maps = score_maps(scores, grids, regions=regions, smooth=smooth)
    if allowed is not None:
        # Plans leave these out by their numbers; this leaves them out by their place.
        maps = [
            [
                entry.masked_fill(~mask.to(entry.device), float("-inf"))
                for entry, mask in zip(*look, strict=True)
            ]
            for look in zip(maps, allowed, strict=True)
        ]
    numbers = []
    for i in range(len(grids[0])):
        size = max(entry[i].numel() for entry in maps)
        values = [entry[i].flatten() for entry in maps]
        if any(entry.numel() != size for entry in values):
            values = [F.pad(entry, (0, size - entry.numel()), value=float("-inf")) for entry in values]
        ends = [tuple(accumulate(step[i] for step in plan)) for plan in plans]
        for look, entry in enumerate(maps):
            if ends[look] and ends[look][-1] > entry[i].numel():
                raise VilaHDError(f"{ends[look][-1]} patches wanted of a scale with {entry[i].numel()}")
        numbers.append(number_by_rank(torch.stack(values), ends))
    return PatchSelection.from_pass_numbers(numbers, grids)


def free_patches(
    grids: Sequence[Grids], regions: Regions | None, taken: "PatchSelection | None"
) -> list[list[Tensor]]:
    """Return, per look and scale, ``(r, c)`` bool: patches that lie in ``regions`` and are not ``taken``.

    Args:
        grids: one entry per look.
        regions: one entry per look; None: the whole picture.
        taken: an earlier choice of the same looks; None: nothing was chosen yet.
    """
    if taken is not None and tuple(taken.grids) != tuple(grids):
        raise VilaHDError(f"an earlier choice on grids {list(taken.grids)} for looks on grids {list(grids)}")
    free: list[list[Tensor]] = []
    earlier = None if taken is None else taken.maps()
    for look, shared in enumerate(grids):
        if regions is None:
            masks = [torch.ones(grid, dtype=torch.bool) for grid in shared]
        else:
            masks = [mask[0].cpu() for mask in regions.subset([look]).on_scales(shared)]
        if earlier is not None:
            masks = [mask & ~old.cpu() for mask, old in zip(masks, earlier[look], strict=True)]
        free.append(masks)
    return free


def join_choices(first: "PatchSelection", second: "PatchSelection") -> "PatchSelection":
    """Return both choices of the same looks as one; the passes of ``second`` come after ``first``'s."""
    shift = first.num_passes
    return PatchSelection.from_maps(
        [
            [torch.where(new > 0, new + shift, old) for old, new in zip(*look, strict=True)]
            for look in zip(first.pass_maps(), second.pass_maps(), strict=True)
        ]
    )


def number_by_rank(values: Tensor, ends: Sequence[tuple[int, ...]]) -> Tensor:
    """Return ``(L, N)`` long: which pass takes each entry (1, 2, ...), 0 for none.

    Args:
        values: ``(L, N)``; larger comes first, equal ones by position.
        ends: per row, how many entries the passes so far have taken together.
    """
    if len(set(ends)) == 1 and len(ends[0]) <= 1:
        return _best(values, ends[0][0] if ends[0] else 0).long()
    order = values.argsort(dim=1, descending=True, stable=True)
    most = max(len(row) for row in ends)
    bounds = torch.tensor(
        [[*row, *[row[-1] if row else 0] * (most - len(row))] for row in ends], device=values.device
    )
    rank = torch.arange(values.shape[1], device=values.device).expand_as(order).contiguous()
    number = torch.searchsorted(bounds, rank, right=True) + 1
    number = number.masked_fill(rank >= bounds[:, -1:], 0)
    return torch.zeros_like(order).scatter_(1, order, number)


def _best(values: Tensor, count: int) -> Tensor:
    """Mark the ``count`` largest entries of each row, equal ones by position. Needs no full sort."""
    if count == 0 or count == values.shape[1]:
        return torch.full_like(values, bool(count), dtype=torch.bool)
    last = values.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above = values > last
    equal = values == last
    room = count - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1) <= room))


@dataclass
class PatchSelection(ModelOutput):
    """Which patches were chosen, for every look."""

    index: Tensor = None  # type: ignore[assignment]  # ModelOutput wants defaults
    """``(L, K)`` long: flat index, ascending; -1 at the end where a look has fewer than K."""
    passes: Tensor = None  # type: ignore[assignment]
    """``(L, K)`` long: the pass that chose the patch, from 1; 0 where ``index`` is -1."""
    grids: tuple[Grids, ...] = None  # type: ignore[assignment]
    """Per look, rows and columns of every high-resolution scale."""
    tile: int | None = None
    """Side in patches of tiles that are pictures of their own, into which the only scale is cut; None: it is
    not cut."""

    @classmethod
    def from_pass_numbers(cls, numbers: Sequence[Tensor], grids: Sequence[Grids]) -> "PatchSelection":
        """Build from one ``(L, N)`` tensor per scale that holds pass numbers (0: not chosen).

        Rows may be padded with zeros at the end where looks have grids of different sizes.
        """
        number = torch.cat([entry.long() for entry in numbers], dim=1)
        look, column = number.nonzero(as_tuple=True)
        scale = torch.repeat_interleave(torch.tensor([entry.shape[1] for entry in numbers])).to(number.device)
        padded = [0, *accumulate(entry.shape[1] for entry in numbers)]
        first = torch.tensor([_offsets(entry)[:-1] for entry in grids], device=number.device)
        shift = first - torch.tensor(padded[:-1], device=number.device)
        flat = column + shift[look, scale[column]]
        counts = (number > 0).sum(dim=1)
        sizes = counts.tolist()
        most = max(sizes, default=0)
        taken = number[look, column]
        if all(size == most for size in sizes):
            return cls(
                index=flat.view(len(sizes), most), passes=taken.view(len(sizes), most), grids=tuple(grids)
            )
        place = torch.arange(len(look), device=look.device) - (counts.cumsum(0) - counts)[look]
        index = flat.new_full((len(sizes), most), -1)
        passes = flat.new_zeros((len(sizes), most))
        index[look, place] = flat
        passes[look, place] = taken
        return cls(index=index, passes=passes, grids=tuple(grids))

    @classmethod
    def from_maps(cls, maps: Sequence[Sequence[Tensor]]) -> "PatchSelection":
        """Build from pass numbers (or a mask) per look and scale, each ``(r, c)``."""
        grids = [tuple((entry.shape[0], entry.shape[1]) for entry in look) for look in maps]
        numbers = []
        for scale in zip(*maps, strict=True):
            most = max(entry.numel() for entry in scale)
            numbers.append(torch.stack([F.pad(m.long().flatten(), (0, most - m.numel())) for m in scale]))
        return cls.from_pass_numbers(numbers, grids)

    @property
    def mask(self) -> Tensor:
        """``(L, K)`` bool: entries that are not padding."""
        return self.index >= 0

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return scale number (from 0), row and column of every entry, each ``(L, K)``; padding gives
        place 0."""
        index = self.index.clamp(min=0)
        device = index.device
        ends = torch.tensor([_offsets(entry)[1:] for entry in self.grids], device=device)
        scale = (index[:, :, None] >= ends[:, None, :-1]).sum(-1)
        first = torch.tensor([_offsets(entry)[:-1] for entry in self.grids], device=device).gather(1, scale)
        columns = torch.tensor([[c for _, c in entry] for entry in self.grids], device=device).gather(
            1, scale
        )
        inside, columns = index - first, columns.clamp(min=1)  # a picture without tiles has no columns
        return scale, inside // columns, inside % columns

    def by_tile(self) -> tuple[Tensor, tuple[Grids, ...]]:
        """Return ``index`` and ``grids`` as if every tile was a scale of its own, tiles row by row.

        Looks with fewer tiles than others get empty grids at the end.
        """
        side = self.tile
        assert side is not None
        _, row, column = self.places()
        across = torch.tensor([[entry[0][1] // side] for entry in self.grids], device=row.device)
        number = row // side * across + column // side
        index = number * side**2 + row % side * side + column % side
        counts = [rows * columns // side**2 for ((rows, columns),) in self.grids]
        most = max(1, *counts)
        grids = tuple(((side, side),) * count + ((0, 0),) * (most - count) for count in counts)
        return index.masked_fill(~self.mask, -1), grids

    def counts(self) -> Tensor:
        """Return ``(L, scales)`` long: patches chosen per scale."""
        scale = self.places()[0]
        return torch.stack([((scale == i) & self.mask).sum(1) for i in range(len(self.grids[0]))], dim=1)

    @property
    def num_passes(self) -> int:
        """The highest pass number in use; 0 when nothing was chosen."""
        return int(self.passes.max()) if self.passes.numel() else 0

    def pass_maps(self) -> list[list[Tensor]]:
        """Return, per look and scale, ``(r, c)`` long: the pass that chose each patch, 0 for none."""
        maps = []
        for look, grids in enumerate(self.grids):
            flat = self.index.new_zeros(sum(r * c for r, c in grids))
            valid = self.mask[look]
            flat[self.index[look][valid]] = self.passes[look][valid]
            parts = flat.split([r * c for r, c in grids])
            maps.append([part.view(grid) for part, grid in zip(parts, grids, strict=True)])
        return maps

    def maps(self) -> list[list[Tensor]]:
        """Return, per look and scale, ``(r, c)`` bool: which patches were chosen."""
        return [[entry > 0 for entry in look] for look in self.pass_maps()]


def _offsets(grids: Grids) -> list[int]:
    """Return the flat index at which every scale starts, and the total at the end."""
    return [0, *accumulate(rows * columns for rows, columns in grids)]


def features_to_maps(low: Tensor, high: Tensor, selection: PatchSelection) -> list[list[Tensor]]:
    """Return features as pictures, per look and scale ``(D, r, c)``: low resolution first, zeros where not
    chosen.

    Args:
        low: ``(L, g * g, D)``.
        high: ``(L, K, D)`` in the order of ``selection.index``.
        selection: what ``high`` was encoded from.
    """
    side = round(low.shape[1] ** 0.5)
    maps = []
    for look, grids in enumerate(selection.grids):
        sizes = [r * c for r, c in grids]
        flat = high.new_zeros(sum(sizes), high.shape[-1])
        valid = selection.mask[look]
        flat = flat.index_copy(0, selection.index[look][valid], high[look][valid])
        parts = [low[look].view(side, side, -1)]
        parts += [part.view(*grid, -1) for part, grid in zip(flat.split(sizes), grids, strict=True)]
        maps.append([part.permute(2, 0, 1) for part in parts])
    return maps
