"""Cut-out pictures that can be pasted fast."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .marks import Colour, ImageArray

SUPERSAMPLE = 2
"""Sprites are drawn this much larger and reduced, which makes their edges smooth."""

Point = tuple[float, float]


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


@dataclass(frozen=True)
class Sprite:
    """A picture whose upper rows are blended and whose lower rows, where they are one solid block, copied."""

    width: int
    height: int
    light: npt.NDArray[np.uint16]
    """``(rows, width * 3)`` of the upper rows: colour times coverage, 0 to 255 * 256."""

    rest: npt.NDArray[np.uint16]
    """``(rows, width * 3)``: what stays of the picture behind, 0 to 256."""

    block: ImageArray
    """``(height - rows, right - left, 3)``: the solid rows."""

    left: int
    """Column where the solid block begins."""

    @classmethod
    def cut(cls, rgba: ImageArray) -> "Sprite":
        """Cut a ``(height, width, 4)`` picture out along its alpha channel."""
        height, width, _ = rgba.shape
        alpha = rgba[:, :, 3]
        last = np.flatnonzero(alpha[-1] == 255)
        rows, left, right = height, 0, 0
        if last.size:
            left, right = int(last[0]), int(last[-1]) + 1
            inside = (alpha[:, left:right] == 255).all(axis=1)
            solid = inside & ~alpha[:, :left].any(axis=1) & ~alpha[:, right:].any(axis=1)
            rows = 0 if solid.all() else height - int(np.argmin(solid[::-1]))
        cover = np.rint(alpha[:rows, :, None].astype(np.float32) * (256 / 255)).astype(np.uint16)
        return cls(
            width=width,
            height=height,
            light=(rgba[:rows, :, :3] * cover).reshape(rows, width * 3),
            rest=np.repeat(256 - cover, 3, axis=2).reshape(rows, width * 3),
            block=np.ascontiguousarray(rgba[rows:, left:right, :3]),
            left=left,
        )

    def paste(self, canvas: ImageArray, x: int, y: int) -> None:
        """Draw with the upper left corner at (x, y); parts outside the canvas ``(H, W, 3)`` are left out."""
        height, width, _ = canvas.shape
        flat = canvas.reshape(height, width * 3)
        rows = self.light.shape[0]
        y1, y2, x1, x2 = max(0, y), min(height, y + rows), max(0, x), min(width, x + self.width)
        if y1 < y2 and x1 < x2:
            part = (slice(y1 - y, y2 - y), slice(3 * (x1 - x), 3 * (x2 - x)))
            behind = flat[y1:y2, 3 * x1 : 3 * x2]
            mixed = behind * self.rest[part]
            mixed += self.light[part]
            mixed >>= 8
            behind[:] = mixed
        top, left = y + rows, x + self.left
        y1, y2 = max(0, top), min(height, y + self.height)
        x1, x2 = max(0, left), min(width, left + self.block.shape[1])
        if y1 < y2 and x1 < x2:
            canvas[y1:y2, x1:x2] = self.block[y1 - top : y2 - top, x1 - left : x2 - left]
