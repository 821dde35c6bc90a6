"""Small pictures pasted on large empty canvases: answers that need a close look at the right place."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vila_hd.options import Box

from .config import CanvasConfig

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Canvas:
    """Where a picture goes."""

    size: Size
    picture: Size
    """Size of the picture on the canvas."""

    corner: tuple[int, int]
    """Its upper left corner."""

    colour: tuple[int, int, int]

    @property
    def box(self) -> Box:
        """The picture's place."""
        x, y = self.corner
        return (float(x), float(y), float(x + self.picture[0]), float(y + self.picture[1]))

    def move(self, box: Box, original: Size) -> Box:
        """The place of a box of the picture at its original size."""
        across, down = self.picture[0] / original[0], self.picture[1] / original[1]
        x, y = self.corner
        return (x + box[0] * across, y + box[1] * down, x + box[2] * across, y + box[3] * down)

    def paste(self, picture: Image.Image) -> Image.Image:
        """The canvas with the picture on it."""
        if picture.size != self.picture:
            picture = picture.resize(self.picture, Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", self.size, self.colour)
        canvas.paste(picture, self.corner)
        return canvas


def plan_canvas(original: Size, config: CanvasConfig, rng: np.random.Generator) -> Canvas:
    """A canvas for a picture; the same one for the same state of ``rng``.

    Sides are drawn evenly on a logarithmic scale. A canvas is never smaller than its picture.
    """
    width, height = original
    if config.picture_side is not None:
        factor = min(1.0, _draw(rng, *config.picture_side) / max(width, height))
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    long = _draw(rng, *config.side)
    short = max(1, round(long / config.aspect ** rng.random()))
    sides = (long, short) if rng.random() < 0.5 else (short, long)
    size = (max(sides[0], width), max(sides[1], height))
    corner = (int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1)))
    red, green, blue = (int(value) for value in rng.integers(256, size=3))
    return Canvas(size, (width, height), corner, (red, green, blue))


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
