"""Patches to tokens, and position tables evaluated only where patches were chosen.

Shape suffixes used in this file:
    M = chosen patches, D = width, P = patch side, G = side of a stored position table, T = taps per axis.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .resampling import axis_taps


class PatchProjection(nn.Conv2d):
    """A convolution whose stride is its kernel, applied to patches that were cut out already.

    The weight keeps the convolution's shape ``(D, 3, P, P)``, as published; the arithmetic is one matrix
    product, which is far faster in the backward pass on a CPU and needs no picture.
    """

    def __init__(self, out_channels: int, patch: int) -> None:
        super().__init__(3, out_channels, kernel_size=patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        """Return ``(..., D)`` for patches ``(..., 3, P, P)``."""
        return F.linear(patches.flatten(-3), self.weight.flatten(1), self.bias)


def positions_at(table: Tensor, grid: int, rows: Tensor, columns: Tensor, *, crop: bool) -> Tensor:
    """Return the position embeddings of chosen places.

    Args:
        table: ``(1, G * G, D)``.
        grid: side of the square grid that the table is stretched to (antialiased bicubic, float32).
        rows: ``(M,)`` places in that grid.
        columns: ``(M,)``.
        crop: do not stretch: a place reads the entry of the same row and column (C-RADIO).

    Returns:
        ``(M, D)`` in the table's dtype. Equal to stretching the whole table first.
    """
    side = round(table.shape[1] ** 0.5)
    if crop or grid == side:
        return F.embedding(rows * side + columns, table[0])
    taps = axis_taps(side, grid, "antialias", device=table.device)
    places = taps.index[rows][:, :, None] * side + taps.index[columns][:, None, :]
    weights = taps.weight[rows][:, :, None] * taps.weight[columns][:, None, :]
    with torch.autocast(table.device.type, enabled=False):
        values = F.embedding_bag(
            places.flatten(1), table[0].float(), per_sample_weights=weights.flatten(1), mode="sum"
        )
    return values.to(table.dtype)


def sine_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, ``(1, side * side, width)``: what new position tables start from.

    Frequencies grow geometrically, from a quarter period in twice the grid to a quarter period per place. The
    last columns are 0 where 4 does not divide the width.
    """
    count = width // 4
    share = torch.arange(count) / max(count - 1, 1)
    angles = torch.arange(side)[:, None] * (math.pi / 2) * (0.5 / side) ** share
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    table = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return F.pad(table, (0, width - 4 * count))[None]


def to_pixels(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return raw RGB values 0..255 ``(..., 3, h, w)`` as normalised float32."""
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=patches.device)
    factor = torch.tensor([1 / (255 * s) for s in std], device=patches.device)
    return torch.addcmul(shift[:, None, None], patches.float(), factor[:, None, None])
