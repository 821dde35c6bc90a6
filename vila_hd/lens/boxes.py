"""Where a model looked most closely, as boxes: for programs, which want neither maps nor pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..receipt import Look


@dataclass(frozen=True)
class LookBox:
    """A part of a picture that was looked at closely."""

    box: tuple[int, int, int, int]
    """``(x1, y1, x2, y2)`` in pixels of the original picture, right and lower edge exclusive."""

    scale: int
    """The scale, in pixels, at which it was read."""

    score: float
    """How much the best cell of it interests the question, 0 to 1."""

    def to_dict(self) -> dict[str, Any]:
        """The box as JSON-ready values."""
        return {"box": list(self.box), "scale": self.scale, "score": round(self.score, 4)}


def look_boxes(
    look: Look,
    *,
    size: tuple[int, int] | None = None,
    offset: tuple[int, int] = (0, 0),
    limit: int = 10,
) -> list[LookBox]:
    """Boxes around patches of the finest scale that was used, those that touch together, the best first.

    Args:
        look: what was looked at.
        size: (width, height) of the picture; None: that of the look, which is its frame where pictures are
            padded.
        offset: (x, y) of the picture in the frame.
        limit: most boxes to return.
    """
    width, height = look.original_size
    right, lower = size or look.original_size
    boxes = []
    for scale, pass_map in reversed(list(zip(look.scales, look.pass_maps, strict=True))):
        rows, columns = pass_map.shape
        for group in _touching(pass_map.numpy() > 0):
            y1, x1 = group.min(0)
            y2, x2 = group.max(0) + 1
            box = (
                max(int(x1 * width // columns) - offset[0], 0),
                max(int(y1 * height // rows) - offset[1], 0),
                min(int(-(-x2 * width // columns)) - offset[0], right),
                min(int(-(-y2 * height // rows)) - offset[1], lower),
            )
            if box[0] < box[2] and box[1] < box[3]:  # else it lies in the padding
                boxes.append(LookBox(box, scale, _score(look, group, rows, columns)))
        if boxes:
            break
    return sorted(boxes, key=lambda found: -found.score)[:limit]


def _touching(chosen: np.ndarray) -> Iterator[np.ndarray]:
    """``(n, 2)`` rows and columns of each group of True cells that touch at a side or corner."""
    left = {(int(row), int(column)) for row, column in np.argwhere(chosen)}
    while left:
        group, edge = [], [left.pop()]
        while edge:
            row, column = edge.pop()
            group.append((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        yield np.array(sorted(group))


def _score(look: Look, group: np.ndarray, rows: int, columns: int) -> float:
    scores = look.scores.numpy()
    cells = group * np.array(scores.shape) // np.array([rows, columns])
    return float(scores[cells[:, 0], cells[:, 1]].max())
