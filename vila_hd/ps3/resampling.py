"""Resizing pictures, and resizing only the patches that are needed. Pure functions.

Two methods, both separable (an output pixel is a weighted sum of a few input rows and columns):

``bicubic``
    Reads 4 x 4 input pixels whatever the reduction (a = -0.75), as the published towers do. Equal to
    ``torch.nn.functional.interpolate(mode="bicubic")`` in float32.
``antialias``
    For new training. Whole halvings first (means of 2 x 2, rounded for ``uint8`` as for a stored picture),
    shared by all views of a picture, then bicubic (a = -0.5) with a kernel that widens with the rest of the
    reduction. Without halvings equal to ``interpolate(mode="bicubic", antialias=True)``.

Neither turns a whole picture into floats.

Shape suffixes used in this file:
    C = channels, H/W = input rows/columns, h/w = output rows/columns, K = patches, P = patch side,
    S = window side, T = taps (input pixels that one output pixel reads along one axis).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Method = Literal["bicubic", "antialias"]
Size = tuple[int, int]
"""Rows and columns, in pixels."""

_BLOCK = 16
"""Output rows that one banded matrix product makes: more waste zeros, fewer waste calls."""
_STRIP_VALUES = 1 << 20
"""Intermediate floats of the output rows that are finished at a time: few enough to stay in the caches."""
_CHUNK_VALUES = 1 << 22
"""Values of the windows that one step of a patch gather holds as floats."""
_BOX_ROWS = 432
"""Rows that one step of the integer reduction works on."""


@dataclass(frozen=True)
class AxisTaps:
    """Which input positions each output position of one axis reads, and with which weight."""

    index: Tensor
    """``(out, T)`` long, clamped to the input."""
    weight: Tensor
    """``(out, T)`` float32; positions that are not read have weight 0."""


def axis_taps(
    in_size: int,
    out_size: int,
    method: Method,
    *,
    length: float | None = None,
    device: torch.device | None = None,
) -> AxisTaps:
    """Return the taps of one axis for a resize to ``out_size`` pixels.

    Args:
        in_size: input pixels.
        out_size: output pixels.
        method: kernel; the halvings of ``antialias`` are not part of it.
        length: input pixels that the output covers, if not all (a halved odd side ends inside a pixel).
        device: where the result is wanted.
    """
    # float32 on purpose: torch computes source positions in float32, and large pictures show the difference.
    scale = torch.tensor(in_size if length is None else length, dtype=torch.float32) / out_size
    middle = scale * (torch.arange(out_size, dtype=torch.float32) + 0.5)
    if method == "bicubic":
        source = middle - 0.5
        first = source.floor()
        offset = torch.arange(-1, 3)
        index = (first.long()[:, None] + offset).clamp(0, in_size - 1)
        weight = _cubic((source - first)[:, None] - offset, -0.75)
    else:
        stretch = max(float(scale), 1.0)
        start = (middle - 2 * stretch + 0.5).long().clamp(min=0)
        stop = (middle + 2 * stretch + 0.5).long().clamp(max=in_size)
        index = start[:, None] + torch.arange(int((stop - start).max()))
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


def _bands(index: Tensor, weight: Tensor, count: int) -> list[tuple[int, int, Tensor]]:
    """Return, for every ``count`` outputs, the first and last input they read and their weights as a
    matrix."""
    bands = []
    for top in range(0, len(index), count):
        part = index[top : top + count]
        low, high = int(part.min()), int(part.max()) + 1
        matrix = weight.new_zeros(len(part), high - low)
        bands.append((low, high, matrix.scatter_add_(1, part - low, weight[top : top + count])))
    return bands


@lru_cache(maxsize=64)
def _axis_bands(
    in_size: int, out_size: int, method: Method, length: float, device: torch.device
) -> tuple[Tensor | None, list[tuple[int, int, Tensor]]]:
    """Return the input positions of one axis that are read (None: all) and the bands over them."""
    used, index = _used(taps := axis_taps(in_size, out_size, method, length=length, device=device), in_size)
    return used, _bands(index, taps.weight, _BLOCK)


def _used(taps: AxisTaps, in_size: int) -> tuple[Tensor | None, Tensor]:
    """Return the input positions that are read at all (None: nearly all) and the taps' index among them."""
    used = torch.zeros(in_size, dtype=torch.bool, device=taps.index.device)
    used[taps.index] = True
    if int(used.sum()) > 0.75 * in_size:
        return None, taps.index
    return used.nonzero()[:, 0], (used.cumsum(0) - 1)[taps.index]


def _resize(
    picture: Tensor, out_size: Size, method: Method, length: tuple[float, float] | None = None
) -> Tensor:
    """Return ``(C, h, w)`` in the dtype of a picture of floats, else float32, without halvings."""
    channels, height, width = picture.shape
    covered = length or (height, width)
    rows, down = _axis_bands(height, out_size[0], method, covered[0], picture.device)
    columns, across = _axis_bands(width, out_size[1], method, covered[1], picture.device)
    read = picture.shape[2] if columns is None else len(columns)
    dtype = picture.dtype if picture.is_floating_point() else torch.float32
    out = torch.empty((channels, *out_size), dtype=dtype, device=picture.device)
    per_strip = max(1, _STRIP_VALUES // (channels * read * _BLOCK))
    for i in range(0, len(down), per_strip):
        part = [
            matrix @ _read(picture, slice(low, high), rows, columns).float()
            for low, high, matrix in down[i : i + per_strip]
        ]
        strip = torch.cat(part, dim=1).flatten(0, 1).T.contiguous()
        turned = torch.cat([matrix @ strip[low:high] for low, high, matrix in across])
        top = i * _BLOCK
        out[:, top : top + per_strip * _BLOCK] = turned.T.view(channels, -1, out_size[1])
    return out


def _read(picture: Tensor, part: slice, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Return a part of the chosen rows (None: of all), of them the chosen columns."""
    picture = picture[:, part] if rows is None else picture.index_select(1, rows[part])
    return picture if columns is None else picture[:, :, columns]  # index_select is slow along the last axis


def _box(picture: Tensor, side: Literal[2, 4]) -> Tensor:
    """Return the rounded means of ``side x side`` pixels of a ``uint8`` picture, see ``_can_box``."""
    channels, height, width = picture.shape
    # Four neighbours of a row are one 32-bit word: its even and its odd bytes are added as 16-bit halves, so
    # that every operation reads memory in order. As fast as copying the picture.
    words = picture.view(torch.int32)
    out = torch.empty(channels, height // side, width // side, dtype=torch.uint8, device=picture.device)
    for channel in range(channels):
        for top in range(0, height, _BOX_ROWS):
            part = words[channel, top : top + _BOX_ROWS]
            pairs = (part & 0x00FF00FF).add_((part >> 8).bitwise_and_(0x00FF00FF))
            sums = pairs.view(-1, side, width // 4).sum(dim=1, dtype=torch.int32)
            if side == 4:
                means = (sums & 0xFFFF).add_(sums >> 16).add_(8).bitwise_right_shift_(4)
            else:
                means = sums.add_(0x00020002).bitwise_right_shift_(2).bitwise_and_(0x00FF00FF)
                means = means.view(torch.int16)  # two in a word
            out[channel, top // side : (top + _BOX_ROWS) // side] = means
    return out


def _can_box(picture: Tensor, side: int) -> bool:
    fits = picture.shape[1] % side == 0 and picture.shape[2] % 4 == 0 and picture.is_contiguous()
    return picture.dtype == torch.uint8 and fits and picture.storage_offset() % 4 == 0


def _halve(picture: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels; the last row or column of an odd side counts twice."""
    if _can_box(picture, 2):
        return _box(picture, 2)
    if picture.shape[1] % 2:
        picture = torch.cat([picture, picture[:, -1:]], dim=1)
    if picture.shape[2] % 2:
        picture = torch.cat([picture, picture[:, :, -1:]], dim=2)
    whole = picture.dtype == torch.uint8
    wide = picture.unflatten(1, (-1, 2))
    rows = wide[:, :, 0].to(torch.int16 if whole else torch.float32) + wide[:, :, 1]
    total = rows[:, :, 0::2] + rows[:, :, 1::2]
    return ((total + 2) >> 2).to(torch.uint8) if whole else total / 4


def _quarter(picture: Tensor) -> Tensor:
    """Return means of 4 x 4 pixels."""
    if _can_box(picture, 4):
        return _box(picture, 4)
    # Rounded once, like the quick way.
    return (
        _halve(_halve(picture.float())).round_().to(torch.uint8)
        if picture.dtype == torch.uint8
        else (_halve(_halve(picture)))
    )


class Views:
    """One picture at every size that a call needs; shared reductions are made once.

    Args:
        picture: ``(C, H, W)``, any dtype; not copied.
        method: see the module docstring.
    """

    def __init__(self, picture: Tensor, method: Method) -> None:
        self.picture, self.method = picture, method
        self.size: Size = (picture.shape[1], picture.shape[2])
        self._levels: dict[int, Tensor] = {1: picture}

    @property
    def levels(self) -> list[Tensor]:
        """The picture and the reductions of it that were made so far."""
        return list(self._levels.values())

    def _level(self, out_size: Size) -> tuple[Tensor, tuple[float, float]]:
        """Return the picture that ``out_size`` is made from, and the rows and columns of it that count."""
        halvings = 0
        if self.method == "antialias":
            while all(have >= want << (halvings + 1) for have, want in zip(self.size, out_size, strict=True)):
                halvings += 1
        times = 1 << halvings
        return self._reduced(times), (self.size[0] / times, self.size[1] / times)

    def _reduced(self, times: int) -> Tensor:
        if times not in self._levels:
            self._levels[times] = (
                _halve(self._reduced(times // 2))
                if times in (2, 8, 32, 128)
                else _quarter(self._reduced(times // 4))
            )
        return self._levels[times]

    @torch.compiler.disable  # nothing to gain: integer work and sizes that change with every picture
    def resize(self, out_size: Size) -> Tensor:
        """Return ``(C, h, w)``: the picture itself when the size is right already. Otherwise floats: float32
        if the picture was halved or holds whole numbers, else of its dtype."""
        if self.size == tuple(out_size):
            return self.picture
        if self.method == "bicubic" and self.picture.dtype == torch.float32:
            # The published kernel itself: its roundings halve the distance to recorded outputs, and it reads
            # no more of a picture that is held as floats anyway.
            size = (int(out_size[0]), int(out_size[1]))
            return F.interpolate(self.picture[None], size=size, mode="bicubic")[0]
        level, length = self._level(out_size)
        with torch.autocast(level.device.type, enabled=False):
            return _resize(level, out_size, self.method, length)

    @torch.compiler.disable
    def patches(self, out_size: Size, rows: Tensor, columns: Tensor, patch: int) -> Tensor:
        """Return ``(K, C, P, P)``: what resizing the picture and cutting out chosen patches would give.

        Args:
            out_size: size after the resize; the patch grid covers its top-left multiple of ``patch``.
            rows: ``(K,)`` places in that grid.
            columns: ``(K,)``.
            patch: patch side in pixels.
        """
        if self.size == tuple(out_size):
            return cut(self.picture, patch)[rows, columns]
        with torch.autocast(self.picture.device.type, enabled=False):
            return self._resized_patches((out_size[0], out_size[1]), rows, columns, patch)

    def _resized_patches(self, out_size: Size, rows: Tensor, columns: Tensor, patch: int) -> Tensor:
        level, length = self._level(out_size)
        start_v, matrix_v = _windows(level.shape[1], length[0], out_size[0], patch, self.method, level.device)
        start_h, matrix_h = _windows(level.shape[2], length[1], out_size[1], patch, self.method, level.device)
        tall, wide = matrix_v.shape[-1], matrix_h.shape[-1]
        if rows.numel() * tall * wide > 2 * (out_size[0] * out_size[1] + level[0].numel()):
            return cut(_resize(level, out_size, self.method, length), patch)[rows, columns]
        step = max(1, _CHUNK_VALUES // (tall * wide * level.shape[0]))
        pieces = []
        for first in range(0, max(rows.numel(), 1), step):
            row, column = rows[first : first + step], columns[first : first + step]
            index_v = (start_v[row][:, None] + torch.arange(tall, device=row.device)).clamp(
                max=level.shape[1] - 1
            )
            index_h = (start_h[column][:, None] + torch.arange(wide, device=row.device)).clamp(
                max=level.shape[2] - 1
            )
            block = level[:, index_v[:, :, None], index_h[:, None, :]].float()
            pieces.append((matrix_v[row] @ block @ matrix_h[column].transpose(1, 2)).transpose(0, 1))
        return torch.cat(pieces)


@lru_cache(maxsize=64)
def _windows(
    in_size: int, length: float, out_size: int, patch: int, method: Method, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return, per grid place of one axis, the first input pixel ``(R,)`` and the weights ``(R, P, S)``."""
    taps = axis_taps(in_size, out_size, method, length=length)
    places = out_size // patch
    index = taps.index[: places * patch].view(places, -1)
    start = index.amin(dim=1)
    span = int((index.amax(dim=1) - start).max()) + 1
    offset = (index - start[:, None]).view(places, patch, -1)
    matrix = torch.zeros(places, patch, span)
    matrix.scatter_add_(2, offset, taps.weight[: places * patch].view(places, patch, -1))
    return start.to(device), matrix.to(device)


def cut(picture: Tensor, patch: int) -> Tensor:
    """View ``(C, H, W)`` as ``(rows, columns, C, P, P)``; what is left beyond whole patches is dropped."""
    rows, columns = picture.shape[1] // patch, picture.shape[2] // patch
    picture = picture[:, : rows * patch, : columns * patch]
    return picture.unflatten(2, (columns, patch)).unflatten(1, (rows, patch)).permute(1, 3, 0, 2, 4)


def scale_size(in_size: Size, scale: int, *, low_scale: int, patch: int) -> Size:
    """Return the rows and columns in pixels at which a picture is seen at one high-resolution scale.

    The longest side becomes ``low_scale * (scale // low_scale)``; the other keeps the proportions as far as
    whole patches of the low-resolution scale allow.
    """
    height, width = in_size
    times = scale // low_scale
    longest = low_scale * times
    if height >= width:
        return longest, max(int(low_scale / height * width) // patch, 1) * patch * times
    return max(int(low_scale / width * height) // patch, 1) * patch * times, longest


def grid_of(size: Size, patch: int) -> tuple[int, int]:
    """Return the rows and columns of patches of a picture of ``size`` pixels (at least one each)."""
    return max(size[0] // patch, 1), max(size[1] // patch, 1)
