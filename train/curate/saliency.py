"""Which boxes of a picture are worth a caption: candidates, their score, and a choice without overlap.

Pure functions. Boxes are ``(n, 4)`` float arrays, xyxy in pixels of the picture.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MIN_MASK_AREA = 40.0 * 40.0
"""Square pixels of the picture: smaller masks count as this large, or specks would decide."""


class Mask(NamedTuple):
    """One segment of a picture, run-length encoded as SAM's tools do: column by column, zeros first."""

    size: tuple[int, int]
    """Rows and columns."""

    counts: Sequence[int]
    """Lengths of the runs."""

    def dense(self) -> np.ndarray:
        """``(rows, columns)`` bool."""
        values = np.arange(len(self.counts)) % 2 == 1
        rows, columns = self.size
        return np.repeat(values, self.counts).reshape(columns, rows).T


@dataclass(frozen=True)
class BoxOptions:
    """How candidates are made and how many are taken."""

    top_k: int = 4
    """Boxes per picture, at most (paper: 4 for most pictures)."""

    cells: float = 5.0
    """Squares along the shorter side of the picture (paper: its side is the shortest side / 5)."""

    aspects: tuple[float, ...] = (1.0, 1.5, 1 / 1.5)
    """Width : height of the boxes at every place, all of one area (paper: also 1.5:1 and 1:1.5)."""


def candidate_boxes(size: tuple[int, int], options: BoxOptions) -> np.ndarray:
    """Boxes around the cells of a grid of squares, in every aspect ratio, moved into the picture.

    Args:
        size: width and height of the picture in pixels.
        options: the grid and the shapes.
    """
    width, height = size
    side = min(size) / options.cells
    columns, rows = max(1, int(width / side + 1e-9)), max(1, int(height / side + 1e-9))
    across = (np.arange(columns) + 0.5) * side + (width - columns * side) / 2
    down = (np.arange(rows) + 0.5) * side + (height - rows * side) / 2
    centre = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
    boxes = []
    for aspect in options.aspects:
        half = np.minimum([side * aspect**0.5, side / aspect**0.5], size) / 2
        middle = np.clip(centre, half, np.array(size) - half)
        boxes.append(np.concatenate([middle - half, middle + half], axis=1))
    return np.concatenate(boxes)


def score_boxes(boxes: np.ndarray, masks: Iterable[Mask], size: tuple[int, int]) -> np.ndarray:
    """Saliency of every box: many small things that lie in it score high.

    ``sum over masks of Area(picture) / max(Area(mask), 40 * 40) * Area(mask and box) / Area(mask)``

    Args:
        boxes: in pixels of the picture.
        masks: of the picture at any size; one is unpacked at a time.
        size: width and height of the picture in pixels.
    """
    width, height = size
    scores = np.zeros(len(boxes))
    for mask in masks:
        rows, columns = mask.size
        scale = (columns / width, rows / height)
        edges = np.rint(boxes * np.array(scale * 2)).astype(int).clip(0, (columns, rows) * 2)
        # Sums over all rectangles that begin in the corner; a column and a row of zeros in front.
        sums = np.zeros((rows + 1, columns + 1), dtype=np.int64)
        np.cumsum(np.cumsum(mask.dense(), axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
        total = sums[-1, -1]
        if not total:
            continue
        x1, y1, x2, y2 = edges.T
        inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
        area = total / (scale[0] * scale[1])
        scores += width * height / max(area, MIN_MASK_AREA) * inside / total
    return scores


def pick_boxes(boxes: np.ndarray, scores: np.ndarray, count: int) -> list[int]:
    """Numbers of the best boxes that do not overlap, best first; boxes without any score are not taken."""
    taken: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(taken) == count or scores[i] <= 0:
            break
        if not any(_overlap(boxes[i], boxes[j]) for j in taken):
            taken.append(int(i))
    return taken


def _overlap(one: np.ndarray, two: np.ndarray) -> bool:
    # A millionth of a pixel is rounding: boxes of neighbouring cells only touch.
    return bool((np.maximum(one[:2], two[:2]) < np.minimum(one[2:], two[2:]) - 1e-6).all())


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Numbers of the boxes that are left, best first, when those with an IoU above ``threshold`` to a better
    one go."""
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        corner = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = corner.clip(0).prod(1)
        union = area[best] + area[rest] - shared
        order = rest[shared <= threshold * np.maximum(union, 1e-12)]
    return np.array(kept, dtype=int)
