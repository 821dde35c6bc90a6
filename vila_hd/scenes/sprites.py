"""Cut-out pictures that can be pasted fast: opaque runs are copied, only the soft edge is blended."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .marks import Colour, ImageArray

SUPERSAMPLE = 2
"""Sprites are drawn this much larger and reduced, which makes their edges smooth."""

Point = tuple[float, float]


class Light(NamedTuple):
    """How things look at one time of day."""

    sky: tuple[Colour, Colour, Colour]
    """Colours of the sky from the top to the horizon."""

    ambient: tuple[float, float, float]
    """Factor on every colour channel of things that do not shine."""

    lit: float
    """Share of windows with the light on."""

    glass: Colour
    lamp: Colour

    def __call__(self, colour: Colour) -> Colour:
        """The colour of a thing in this light."""
        red, green, blue = (
            min(255, round(part * factor)) for part, factor in zip(colour, self.ambient, strict=True)
        )
        return red, green, blue


class Pen:
    """Draws in pixel coordinates of the final sprite on a larger transparent sheet."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._sheet = Image.new("RGBA", (width * SUPERSAMPLE, height * SUPERSAMPLE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._sheet)

    def box(self, x1: float, y1: float, x2: float, y2: float, colour: Colour, *, radius: float = 0) -> None:
        """Fill a rectangle; the ends are excluded."""
        if x2 <= x1 or y2 <= y1:
            return
        corners = (
            round(x1 * SUPERSAMPLE),
            round(y1 * SUPERSAMPLE),
            round(x2 * SUPERSAMPLE) - 1,
            round(y2 * SUPERSAMPLE) - 1,
        )
        if radius:
            self._draw.rounded_rectangle(corners, radius * SUPERSAMPLE, fill=colour)
        else:
            self._draw.rectangle(corners, fill=colour)

    def oval(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None:
        """Fill an ellipse inside a box."""
        self._draw.ellipse([value * SUPERSAMPLE for value in (x1, y1, x2, y2)], fill=colour)

    def shape(self, points: list[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points], fill=colour)

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        """Draw a line of some width in pixels."""
        flat = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
        self._draw.line(flat, fill=colour, width=max(1, round(width * SUPERSAMPLE)), joint="curve")

    def sprite(self) -> "Sprite":
        """Reduce the sheet and cut it out."""
        return Sprite.cut(np.asarray(self._sheet.reduce(SUPERSAMPLE)))


class _Run(NamedTuple):
    """A rectangle of opaque pixels."""

    y1: int
    y2: int
    x1: int
    x2: int


@dataclass(frozen=True)
class Sprite:
    """A picture with opaque runs and a soft edge."""

    colours: ImageArray
    """``(height, width * 3)``."""

    runs: tuple[_Run, ...]
    edge_y: npt.NDArray[np.intp]
    edge_x: npt.NDArray[np.intp]
    edge_colour: npt.NDArray[np.uint16]
    """``(edge, 3)``: colour times coverage, 0 to 255 * 255."""

    edge_rest: npt.NDArray[np.uint16]
    """``(edge, 1)``: what stays of the picture behind, 0 to 255."""

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.colours.shape[0])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.colours.shape[1]) // 3

    @classmethod
    def cut(cls, rgba: ImageArray) -> "Sprite":
        """Cut a ``(height, width, 4)`` picture out along its alpha channel."""
        alpha = rgba[:, :, 3]
        runs: list[_Run] = []
        open_runs: dict[tuple[int, int], int] = {}
        steps = np.diff(np.pad((alpha == 255).astype(np.int8), ((0, 1), (1, 1))), axis=1)
        for y in range(alpha.shape[0] + 1):
            found = set(
                zip(
                    np.flatnonzero(steps[y] == 1).tolist(),
                    np.flatnonzero(steps[y] == -1).tolist(),
                    strict=True,
                )
            )
            for span in sorted(set(open_runs) - found):
                runs.append(_Run(open_runs.pop(span), y, *span))
            for span in found - set(open_runs):
                open_runs[span] = y
        edge_y, edge_x = np.nonzero((alpha > 0) & (alpha < 255))
        cover = alpha[edge_y, edge_x].astype(np.uint16)[:, None]
        return cls(
            colours=np.ascontiguousarray(rgba[:, :, :3]).reshape(alpha.shape[0], -1),
            runs=tuple(runs),
            edge_y=edge_y,
            edge_x=edge_x,
            edge_colour=rgba[edge_y, edge_x, :3].astype(np.uint16) * cover,
            edge_rest=255 - cover,
        )

    def paste(self, canvas: ImageArray, x: int, y: int) -> None:
        """Draw with the upper left corner at (x, y); parts outside the canvas ``(H, W, 3)`` are left out."""
        height, width, _ = canvas.shape
        flat = canvas.reshape(height, width * 3)
        for run in self.runs:
            y1, y2 = max(0, y + run.y1), min(height, y + run.y2)
            x1, x2 = max(0, x + run.x1), min(width, x + run.x2)
            if y1 < y2 and x1 < x2:
                flat[y1:y2, 3 * x1 : 3 * x2] = self.colours[y1 - y : y2 - y, 3 * (x1 - x) : 3 * (x2 - x)]
        rows, columns, colour, rest = self.edge_y + y, self.edge_x + x, self.edge_colour, self.edge_rest
        if x < 0 or y < 0 or x + self.width > width or y + self.height > height:
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            rows, columns, colour, rest = rows[inside], columns[inside], colour[inside], rest[inside]
        canvas[rows, columns] = (canvas[rows, columns] * rest + colour) // 255
