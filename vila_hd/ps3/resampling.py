"""Resizing pictures, and resizing only the patches that are needed. Pure functions.

Both resizings of this file are separable: every output pixel is a weighted sum of a few input rows and columns.
``bicubic`` reads 4 x 4 input pixels whatever the reduction (a = -0.75; what the published towers were trained with),
``antialias`` widens its kernel with the reduction (a = -0.5). They agree with ``torch.nn.functional.interpolate`` in
float32, but neither turns a whole picture into floats.

Shape suffixes used in this file:
    C = channels, H/W = input rows/columns, h/w = output rows/columns, K = patches, P = patch side, S = window side,
    T = taps (input pixels that one output pixel reads along one axis).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["bicubic", "antialias"]

_STRIP_PIXELS = 1 << 21
"""Pixels that one step of a resize turns into floats at a time: keeps the work inside the caches."""


@dataclass(frozen=True)
class AxisTaps:
    """Which input positions each output position of one axis reads, and with which weight."""

    index: Tensor
    """``(out, T)`` long, clamped to the input."""
    weight: Tensor
    """``(out, T)`` float32; positions that are not read have weight 0."""


def axis_taps(in_size: int, out_size: int, method: Method, device: torch.device | None = None) -> AxisTaps:
    """Return the taps of one axis for a resize from ``in_size`` to ``out_size`` pixels."""
    # float32 on purpose: torch computes source positions in float32, and large pictures show the difference.
    scale = torch.tensor(in_size, dtype=torch.float32) / out_size
    middle = scale * (torch.arange(out_size, dtype=torch.float32) + 0.5)
    if method == "bicubic":
        source = middle - 0.5
        first = source.floor()
        offset = torch.arange(-1, 3)
        distance = (source - first)[:, None] - offset
        index = (first.long()[:, None] + offset).clamp(0, in_size - 1)
        weight = _cubic(distance, -0.75)
    else:
        stretch = max(float(scale), 1.0)
        support = 2.0 * stretch
        first = (middle - support + 0.5).long().clamp(min=0)
        stop = (middle + support + 0.5).long().clamp(max=in_size)
        offset = torch.arange(int((stop - first).max()))
        index = first[:, None] + offset
        weight = _cubic((index - middle[:, None] + 0.5) / stretch, -0.5)
        weight = weight.masked_fill(index >= stop[:, None], 0.0)
        weight = weight / weight.sum(dim=1, keepdim=True)
        index = index.clamp(max=in_size - 1)
    return AxisTaps(index.to(device), weight.to(device))


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize(picture: Tensor, out_size: tuple[int, int], method: Method) -> Tensor:
    """Resize a picture.

    Args:
        picture: ``(C, H, W)``, any dtype.
        out_size: rows and columns in pixels.
        method: see the module docstring.

    Returns:
        ``(C, h, w)``: the picture itself when the size is right already, float32 otherwise.
    """
    channels, height, width = picture.shape
    if (height, width) == tuple(out_size):
        return picture
    vertical = axis_taps(height, out_size[0], method, picture.device)
    horizontal = axis_taps(width, out_size[1], method, picture.device)
    out = torch.empty((channels, *out_size), dtype=torch.float32, device=picture.device)
    taps = horizontal.index.shape[1]
    # Reading columns first is cheaper when they are few; strips of rows keep the floats in the caches.
    columns_first = out_size[1] * taps < width
    per_row = channels * (out_size[1] * taps if columns_first else width) * vertical.index.shape[1]
    strip = max(1, _STRIP_PIXELS // per_row)
    for top in range(0, out_size[0], strip):
        index, weight = vertical.index[top : top + strip], vertical.weight[top : top + strip]
        rows = _weighted_rows(picture, index, weight, horizontal.index.flatten() if columns_first else None)
        if columns_first:
            columns = rows.view(channels, -1, out_size[1], taps)
        else:
            columns = rows[:, :, horizontal.index]
        out[:, top : top + strip] = (columns * horizontal.weight).sum(-1)
    return out


def _weighted_rows(picture: Tensor, index: Tensor, weight: Tensor, columns: Tensor | None) -> Tensor:
    """Return float32 ``(C, rows, W or number of columns)``: weighted sums of input rows, at some columns only."""
    low, high = int(index.min()), int(index.max()) + 1
    window = picture[:, low:high]
    if columns is not None:
        window = window[:, :, columns]
    matrix = weight.new_zeros(index.shape[0], high - low)
    matrix.scatter_add_(1, index - low, weight)
    if matrix.shape[1] <= 4 * index.shape[1]:
        return matrix @ window.float()
    total = torch.zeros((), dtype=torch.float32, device=picture.device)
    for tap in range(index.shape[1]):
        total = total + window[:, index[:, tap] - low].float() * weight[:, tap, None]
    return total


class PatchSampler:
    """Cuts patches out of a picture as it would look at another size, without making that picture.

    Args:
        in_size: rows and columns of the pictures, in pixels.
        out_size: rows and columns after the resize; the patch grid covers its top-left multiple of ``patch``.
        patch: patch side in pixels.
        method: see the module docstring.
        device: where the pictures are.
    """

    def __init__(
        self,
        in_size: tuple[int, int],
        out_size: tuple[int, int],
        *,
        patch: int,
        method: Method,
        device: torch.device | None = None,
    ) -> None:
        self.in_size, self.out_size, self.patch, self.method = tuple(in_size), tuple(out_size), patch, method
        self.grid = (out_size[0] // patch, out_size[1] // patch)
        self.same = self.in_size == self.out_size
        if not self.same:
            self._vertical = _windows(in_size[0], out_size[0], patch, method, device)
            self._horizontal = _windows(in_size[1], out_size[1], patch, method, device)

    def gather(self, picture: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the patches at the given grid places.

        Args:
            picture: ``(C, H, W)``.
            rows: ``(K,)`` grid rows.
            columns: ``(K,)`` grid columns.

        Returns:
            ``(K, C, P, P)``: the picture's dtype when no resize is needed, float32 otherwise.
        """
        if self.same:
            return _patch_view(picture, self.patch)[rows, columns]
        (start_v, matrix_v), (start_h, matrix_h) = self._vertical, self._horizontal
        window = matrix_v.shape[-1] * matrix_h.shape[-1]
        if rows.numel() * window > 4 * self.out_size[0] * self.out_size[1] + picture[0].numel():
            return _patch_view(resize(picture, self.out_size, self.method), self.patch)[rows, columns]
        step = max(1, _STRIP_PIXELS // (window * picture.shape[0]))
        pieces = []
        for first in range(0, max(rows.numel(), 1), step):
            row, column = rows[first : first + step], columns[first : first + step]
            index_v = start_v[row][:, None] + torch.arange(matrix_v.shape[-1], device=row.device)
            index_h = start_h[column][:, None] + torch.arange(matrix_h.shape[-1], device=row.device)
            index_v, index_h = index_v.clamp(max=self.in_size[0] - 1), index_h.clamp(max=self.in_size[1] - 1)
            block = picture[:, index_v[:, :, None], index_h[:, None, :]].float()
            pieces.append((matrix_v[row] @ block @ matrix_h[column].transpose(1, 2)).transpose(0, 1))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _patch_view(picture: Tensor, patch: int) -> Tensor:
    """View ``(C, H, W)`` as ``(rows, columns, C, P, P)``."""
    rows, columns = picture.shape[1] // patch, picture.shape[2] // patch
    picture = picture[:, : rows * patch, : columns * patch]
    return picture.unflatten(2, (columns, patch)).unflatten(1, (rows, patch)).permute(1, 3, 0, 2, 4)


def _windows(
    in_size: int, out_size: int, patch: int, method: Method, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """Return, per grid place of one axis, the first input pixel ``(R,)`` and the weights ``(R, P, S)``."""
    taps = axis_taps(in_size, out_size, method)
    places = out_size // patch
    index = taps.index[: places * patch].view(places, -1)
    weight = taps.weight[: places * patch].view(places, patch, -1)
    start = index.amin(dim=1)
    span = int((index.amax(dim=1) - start).max()) + 1
    matrix = weight.new_zeros(places, patch, span)
    matrix.scatter_add_(2, (index - start[:, None]).view_as(weight), weight)
    return start.to(device), matrix.to(device)


def resample_patches(
    picture: Tensor, out_size: tuple[int, int], rows: Tensor, columns: Tensor, *, patch: int, method: Method
) -> Tensor:
    """Return ``(K, C, P, P)``: what resizing the whole picture and cutting out the chosen patches would give."""
    sampler = PatchSampler(
        (picture.shape[1], picture.shape[2]), out_size, patch=patch, method=method, device=picture.device
    )
    return sampler.gather(picture, rows, columns)


def scale_size(in_size: tuple[int, int], scale: int, *, low_scale: int, patch: int) -> tuple[int, int]:
    """Return the rows and columns in pixels at which a picture is seen at one high-resolution scale.

    The longest side becomes ``low_scale * (scale // low_scale)``; the other keeps the proportions as far as whole
    patches of the low-resolution scale allow.
    """
    height, width = in_size
    times = scale // low_scale
    longest = low_scale * times
    if height >= width:
        return longest, max(int(low_scale / height * width) // patch, 1) * patch * times
    return max(int(low_scale / width * height) // patch, 1) * patch * times, longest


def grid_of(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return the rows and columns of patches of a picture of ``size`` pixels (at least one each)."""
    return max(size[0] // patch, 1), max(size[1] // patch, 1)
