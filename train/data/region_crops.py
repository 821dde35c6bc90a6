"""Random crops that keep what the captions describe, and pictures small enough to hand between processes."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Crop(NamedTuple):
    """A part of a picture in whole pixels."""

    x1: int
    y1: int
    x2: int
    y2: int


def choose_crop(
    size: tuple[int, int],
    keep: np.ndarray,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: float,
) -> Crop:
    """A random crop that contains every box of ``keep``, whatever the picture's aspect ratio.

    The aspect ratio is drawn around the picture's own one: drawn around a square, as usual, wide pictures
    only ever show their middle.

    Args:
        size: width and height in pixels.
        keep: ``(n, 4)`` xyxy in pixels, inside of the picture; n may be 0.
        rng: decides.
        area: range of the share of the picture's area.
        aspect: largest factor between the aspect ratios of crop and picture.
    """
    width, height = size
    share = rng.uniform(*area)
    factor = float(np.exp(rng.uniform(-1, 1) * np.log(aspect)))
    # A factor that one side cannot follow is given to the other, so that the area is kept.
    across, down = np.sqrt(share * factor), np.sqrt(share / factor)
    across, down = (1.0, share) if across > 1 else (share, 1.0) if down > 1 else (across, down)
    x1, y1, x2, y2 = width, height, 0, 0
    if len(keep):
        x1, y1 = (int(value) for value in np.floor(keep[:, :2].min(0)))
        x2, y2 = (int(value) for value in np.ceil(keep[:, 2:].max(0)))
    left, right = _interval(width, round(width * across), x1, x2, rng)
    top, bottom = _interval(height, round(height * down), y1, y2, rng)
    return Crop(left, top, right, bottom)


def _interval(side: int, length: int, first: int, last: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random interval of at least ``length`` in ``[0, side]`` that contains ``[first, last]``."""
    length = min(side, max(length, last - first, 1))
    low, high = max(0, last - length), min(first, side - length)
    start = int(rng.integers(low, high + 1))
    return start, start + length


def move_boxes(
    boxes: np.ndarray, crop: Crop, scale: tuple[float, float], *, min_visible: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in whole pixels of the prepared picture, never without area.

    Args:
        boxes: ``(n, 4)`` xyxy in pixels of the whole picture.
        crop: the part that is shown.
        scale: factors of width and height.
        min_visible: share of a box that must be inside.

    Returns:
        ``(m, 4)`` int64 boxes and the ``(m,)`` numbers of the boxes that are left.
    """
    low, high = np.array(crop[:2] * 2, dtype=np.float64), np.array(crop[2:] * 2, dtype=np.float64)
    inside = boxes.clip(low, high)
    seen = (inside[:, 2:] - inside[:, :2]).clip(0).prod(1)
    left = np.flatnonzero(seen / (boxes[:, 2:] - boxes[:, :2]).prod(1) >= max(min_visible, 1e-9))
    moved = (inside[left] - low) * np.array(scale * 2)
    # Rounding outwards, but by nothing that a product of floats left over.
    first, last = np.floor(moved[:, :2] + 1e-6), np.ceil(moved[:, 2:] - 1e-6)
    limit = np.rint((high[:2] - low[:2]) * np.array(scale))
    first = np.minimum(first, limit - 1)
    last = np.clip(last, first + 1, limit)
    return np.concatenate([first, last], 1).astype(np.int64), left


def prepared_size(crop: Crop, side: int, resize: Literal["squash", "fit"]) -> tuple[int, int]:
    """Width and height of the picture that is handed on: never larger than the crop's longest side."""
    width, height = crop.x2 - crop.x1, crop.y2 - crop.y1
    longest = min(max(width, height), side)
    if resize == "squash":
        return longest, longest
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def cut_out(picture: Image.Image, crop: Crop, size: Sequence[int]) -> Tensor:
    """``(3, height, width)`` uint8: the crop at ``size`` (width, height)."""
    if (crop.x2 - crop.x1, crop.y2 - crop.y1) == tuple(size):
        picture = picture.crop(crop)
    else:
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC, box=crop)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
