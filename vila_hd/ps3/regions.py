"""Parts of a picture that must be looked at, or that pooling is restricted to."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import VilaHDError

_TOUCH = 1e-4
"""Share of a cell that a box must cover to count, so that boxes drawn on cell borders do not spill by
rounding."""


class Regions:
    """Boxes or maps, one entry per look. Build with ``from_boxes`` or ``from_maps``."""

    def __init__(self, boxes: Tensor | None, maps: Sequence[Tensor], *, truncate: bool = False) -> None:
        self._boxes = boxes
        self._maps = list(maps)
        self._truncate = truncate

    @classmethod
    def from_boxes(cls, boxes: Sequence[Tensor]) -> "Regions":
        """Return regions from boxes.

        Args:
            boxes: one ``(n, 4)`` tensor per look, ``x1 y1 x2 y2`` as shares of the picture's width and
                height in [0, 1]; ``(0, 4)`` for none.

        Raises:
            VilaHDError: an entry has another shape.
        """
        for i, entry in enumerate(boxes):
            if entry.ndim != 2 or entry.shape[1] != 4:
                raise VilaHDError(
                    f"boxes of look {i} have shape {tuple(entry.shape)}: use (number of boxes, 4)"
                )
        most = max((len(entry) for entry in boxes), default=0)
        device = boxes[0].device if boxes else None
        padded = torch.zeros(len(boxes), most, 4, dtype=torch.float64, device=device)
        for i, entry in enumerate(boxes):
            padded[i, : len(entry)] = entry
        return cls(padded, ())

    @classmethod
    def from_maps(cls, maps: Tensor | Sequence[Tensor], *, truncate: bool = False) -> "Regions":
        """Return regions from maps that are positive where the region is.

        Args:
            maps: ``(L, h, w)`` or one ``(h, w)`` per look, any size and dtype.
            truncate: drop cells that an integer map covers only partly, as the reference does (its quirk 9).
        """
        return cls(None, list(maps), truncate=truncate and not maps[0].is_floating_point())

    def __len__(self) -> int:
        return len(self._maps) if self._boxes is None else len(self._boxes)

    def subset(self, looks: Sequence[int]) -> "Regions":
        """Return the regions of some looks."""
        if self._boxes is None:
            return Regions(None, [self._maps[i] for i in looks], truncate=self._truncate)
        return Regions(self._boxes[list(looks)], ())

    def to(self, device: torch.device) -> "Regions":
        """Return the same regions on another device."""
        boxes = None if self._boxes is None else self._boxes.to(device)
        return Regions(boxes, [m.to(device) for m in self._maps], truncate=self._truncate)

    def on_grid(self, rows: int, columns: int) -> Tensor:
        """Return ``(L, rows, columns)`` bool: cells that a region touches (an area, not just a border)."""
        if self._boxes is None:
            return torch.stack([self._cover(entry, rows, columns) for entry in self._maps])
        x1, y1, x2, y2 = self._boxes.clamp(0, 1).unbind(-1)
        across = _touched(x1, x2, columns)
        down = _touched(y1, y2, rows)
        return torch.einsum("lnr,lnc->lrc", down.float(), across.float()) > 0

    def _cover(self, entry: Tensor, rows: int, columns: int) -> Tensor:
        share = F.interpolate(entry[None, None].float(), size=(rows, columns), mode="area")[0, 0]
        return share.trunc() > 0 if self._truncate else share > 0

    def on_scales(self, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return ``(L, rows, columns)`` bool per scale: the cells of the first grid, stretched to every grid.

        A patch of a high scale counts when it lies in a cell of the first high-resolution scale that a region
        touches, as in the reference.
        """
        first = self.on_grid(*grids[0])
        stretched = [
            F.interpolate(first[:, None].float(), size=grid, mode="nearest")[:, 0] > 0 for grid in grids[1:]
        ]
        return [first, *stretched]


def _touched(start: Tensor, stop: Tensor, cells: int) -> Tensor:
    """Return ``(L, n, cells)`` bool: cells of one axis that the interval ``(L, n)`` covers by some length."""
    cell = torch.arange(cells, device=start.device)
    covered = torch.minimum(stop[..., None] * cells, cell + 1) - torch.maximum(start[..., None] * cells, cell)
    return covered > _TOUCH
