"""The small marks on signs, in tiers of difficulty. None can be read in a picture that is five times smaller.

Every mark is made of fine patterns that repeat every 5 pixels, upwards or sideways, with a mean that does not
depend on what the mark says. Any sensible reduction by 5 (box, triangle, cubic) averages whole periods, so
nothing but a flat colour is left of it: the mark is absent from the smaller scales, not merely hard to see.

* ``texture``: one of twelve such patterns.
* ``code``: tiny coloured lamps, whose surround makes up for their colour: columns of the first colour on
  bands of the plate's muted colour, rows of the second on bands of the ink's.
* ``shape``, ``digit``, ``letter``: a large figure in slanted lines on a ground of their mean colour.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Tier = Literal["texture", "code", "shape", "digit", "letter"]
TIERS: tuple[Tier, ...] = get_args(Tier)
"""From the easiest to learn to the hardest."""

FloatArray = npt.NDArray[np.floating]
ImageArray = npt.NDArray[np.uint8]
LevelArray = npt.NDArray[np.int16]
Colour = tuple[int, int, int]

PERIOD = 5
"""Pixels after which patterns repeat; what scales this much smaller cannot see."""

PANEL_SIDES = (75, 95)
"""Sides of panels in pixels: whole periods."""

CODE_COLOURS: Mapping[str, Colour] = MappingProxyType(
    {"red": (248, 40, 40), "green": (40, 220, 70), "blue": (60, 100, 248), "yellow": (248, 216, 40)}
)
CODE_GREY: Colour = (88, 88, 92)
"""A lamp of this colour would not be seen: what each lamp adds is its difference from this."""

DIGITS: tuple[str, ...] = tuple("0123456789")
LETTERS: tuple[str, ...] = tuple("ABCDEFGHJKLMNPRSTUVWXYZ")
"""Capital letters without the ones that a digit could be taken for (I, O, Q)."""

CODES: tuple[str, ...] = tuple(f"{first} {second}" for first in CODE_COLOURS for second in CODE_COLOURS)

_OVERSAMPLE = 16
_FADE = 8
_BAND = 15
_MUTED_MIDDLE, _MUTED_SHARE = 122, 0.4
_GRAIN = 5.5
_GRAIN_SHIFTS = 512
_FieldFunction = Callable[[FloatArray, FloatArray], FloatArray]


def _wave(x: FloatArray) -> FloatArray:
    return np.cos(2 * np.pi * x / PERIOD)


def _offset(x: FloatArray) -> FloatArray:
    """Distance to the right of the nearest cell centre, between -2.5 and 2.5."""
    return (x + PERIOD / 2) % PERIOD - PERIOD / 2


def _sawtooth(x: FloatArray, period: float) -> FloatArray:
    """Triangle wave between 0 and 1."""
    return np.abs((x / period) % 1.0 * 2.0 - 1.0)


_TEXTURE_FIELDS: dict[str, tuple[int, _FieldFunction]] = {
    "horizontal": (5, lambda x, y: _wave(y)),
    "vertical": (5, lambda x, y: _wave(x)),
    "rising": (5, lambda x, y: _wave(x + y)),
    "falling": (5, lambda x, y: _wave(x - y)),
    "checker": (5, lambda x, y: _wave(x) * _wave(y)),
    "dots": (5, lambda x, y: -np.hypot(_offset(x), _offset(y))),
    "grid": (5, lambda x, y: np.maximum(np.abs(_offset(x)), np.abs(_offset(y)))),
    "zigzag": (10, lambda x, y: _wave(y + 5 * _sawtooth(x, 10))),
    "waves": (15, lambda x, y: _wave(x + 1.8 * np.sin(2 * np.pi * y / 15))),
    "bricks": (10, lambda x, y: _wave(y + 2.5 * np.floor(x / 5))),
    "planks": (10, lambda x, y: _wave(x + 2.5 * np.floor(y / 5))),
    "steps": (20, lambda x, y: _wave(y + 1.25 * np.floor(x / 5))),
}
"""Name -> (period of both axes in pixels, a field that is above its own median where the ink goes).

Along one axis at least, every line of pixels repeats after ``PERIOD`` and has the same mean.
"""

TEXTURES: tuple[str, ...] = tuple(_TEXTURE_FIELDS)


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    near, far = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.minimum(0.3 - near, 0.9 - far)


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    sector = np.abs((np.arctan2(x, -y) / (2 * np.pi / 5) + 0.5) % 1.0 - 0.5)
    return 1.0 - np.hypot(x, y) * (1 + 2.6 * sector)


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    return 0.8 - np.hypot(x, 1.1 * (y - 0.1) + 0.62 * np.sqrt(np.abs(x)) - 0.3)


def _arrow(x: FloatArray, y: FloatArray) -> FloatArray:
    head = np.minimum(y + 0.95 - 1.05 * np.abs(x), -y)
    return np.maximum(head, np.minimum(0.3 - np.abs(x), 0.95 - np.abs(y)))


_SHAPE_FIELDS: dict[str, _FieldFunction] = {
    "circle": lambda x, y: 0.75 - np.hypot(x, y),
    "square": lambda x, y: 0.68 - np.maximum(np.abs(x), np.abs(y)),
    "triangle": lambda x, y: np.minimum(0.7 - y, y + 0.85 - 1.75 * np.abs(x)),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "moon": lambda x, y: np.minimum(0.85 - np.hypot(x, y), np.hypot(x - 0.5, y) - 0.62),
    "arrow": _arrow,
}
"""Name -> a field that is positive inside the shape, for x and y from -1 to 1 (y downwards)."""

SHAPES: tuple[str, ...] = tuple(_SHAPE_FIELDS)


def answers(tier: Tier) -> tuple[str, ...]:
    """Every answer that marks of this tier can have. Letters are answered in lower case."""
    return {
        "texture": TEXTURES,
        "code": CODES,
        "shape": SHAPES,
        "digit": DIGITS,
        "letter": tuple(letter.lower() for letter in LETTERS),
    }[tier]


@cache
def _grain() -> LevelArray:
    """Faint blotches of the paint, ``(side, side, 3)`` in levels of each channel.

    They bury what rounding and the edges of a panel would still tell from afar.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(48)))
    side = (max(PANEL_SIDES) + _GRAIN_SHIFTS + PERIOD - 1) // PERIOD
    blotches = [Image.fromarray(rng.normal(0, _GRAIN, (side, side)).astype(np.float32)) for _ in range(3)]
    large = [one.resize((side * PERIOD, side * PERIOD), Image.Resampling.BICUBIC) for one in blotches]
    return np.rint(np.stack([np.asarray(one) for one in large], axis=2)).astype(np.int16)


@cache
def _texture(name: str) -> tuple[FloatArray, int]:
    """Ink per pixel, tiled far enough to cut any panel at any phase, and the period in pixels."""
    period, field = _TEXTURE_FIELDS[name]
    steps = (np.arange(period * _OVERSAMPLE) + 0.5) / _OVERSAMPLE
    # The tiny shift keeps samples off the zeros of the fields, where a tie would fall to one side only.
    values = field(steps[None, :] + 0.013, steps[:, None] + 0.007) + np.zeros((steps.size, steps.size))
    ink = values > np.median(values)
    tile = ink.reshape(period, _OVERSAMPLE, period, _OVERSAMPLE).mean((1, 3))
    # Ties at the median leave the mean off by up to a few percent, and that alone would be visible from afar.
    mean = tile.mean()
    tile = tile * (0.5 / mean) if mean > 0.5 else 1 - (1 - tile) * (0.5 / (1 - mean))
    repeats = -(-(max(PANEL_SIDES) + period) // period)
    return np.tile(tile, (repeats, repeats)).astype(np.float32), period


@cache
def _fade(side: int) -> FloatArray:
    """Contrast of a pattern, ``(side, side)``: it fades at the edges of its panel.

    A pattern that is cut off leaves half periods behind, whose mean would show in a smaller picture.
    """
    steps = np.clip((np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5) / _FADE, 0, 1)
    line = steps * steps * (3 - 2 * steps)
    return np.outer(line, line).astype(np.float32)


@cache
def _figure(tier: Tier, answer: str, side: int) -> FloatArray:
    """How far each pixel of a panel is inside the figure: ``(side, side)``, 0 to 1 with a soft outline."""
    if tier == "shape":
        steps = (np.arange(side) + 0.5) / side * 2 - 1
        inside = _SHAPE_FIELDS[answer](steps[None, :], steps[:, None]) > 0
        mask = Image.fromarray((inside * 255).astype(np.uint8))
    else:
        # The bitmap font is the one that looks the same with every build of Pillow.
        glyph = Image.new("L", (24, 24), 0)
        ImageDraw.Draw(glyph).text(
            (8, 4), f"{answer.upper()} ", fill=255, font=ImageFont.load_default_imagefont()
        )
        left, top, right, bottom = glyph.getbbox() or (0, 0, 1, 1)
        height, width = side * 8 // 10, side * 11 // 100 * (right - left)
        mask = Image.new("L", (side, side), 0)
        large = glyph.crop((left, top, right, bottom)).resize((width, height), Image.Resampling.BOX)
        mask.paste(large, ((side - width) // 2, (side - height) // 2))
    soft = mask.filter(ImageFilter.GaussianBlur(1.2))
    return np.asarray(soft, np.float32) / 255


def ink_share(tier: Tier, answer: str, *, side: int, phase: tuple[int, int]) -> FloatArray:
    """How much ink each pixel of a panel carries.

    Args:
        tier: any but ``code``, which has no ink.
        answer: what the mark says.
        side: of the panel, in pixels; one of ``PANEL_SIDES``.
        phase: shift of the pattern to the left and up, in pixels.

    Returns:
        ``(side, side)`` between 0 (plate) and 1 (ink), 0.5 on average.
    """
    if tier == "texture":
        pattern, period = _texture(answer)
        dx, dy = phase[0] % period, phase[1] % period
        return 0.5 + (pattern[dy : dy + side, dx : dx + side] - 0.5) * _fade(side)
    lines = ink_share("texture", "rising", side=side, phase=phase)
    return 0.5 + (lines - 0.5) * _figure(tier, answer, side)


@cache
def _glow(name: str, side: int, *, upright: bool) -> FloatArray:
    """What soft lamps, one in each cell of ``PERIOD`` pixels, add to a panel: nothing on average.

    They are joined to columns when ``upright``, and to rows otherwise.
    """
    along = np.array([0, 0.75, 1, 0.75, 0])
    cell = np.outer([0.8, 1, 1, 1, 0.8], along - along.mean())
    lamp = np.subtract(CODE_COLOURS[name], CODE_GREY, dtype=np.float64)
    repeats = -(-side // PERIOD)
    lamps = np.tile(cell if upright else cell.T, (repeats, repeats))[:side, :side, None] * lamp
    return lamps.astype(np.float32)


@cache
def _code_panel(answer: str, side: int, plate: Colour, ink: Colour) -> LevelArray:
    """Bands of the muted colours of plate and ink in turn, with the lamps of one half of the code each.

    Near any lamp a reader knows which sign it is on, and which half of the code it is.
    """
    first, second = answer.split()
    bands = np.arange(side) // _BAND % 2
    muted = _MUTED_MIDDLE + _MUTED_SHARE * (np.array([plate, ink], np.float32) - 128)
    glow = np.stack([_glow(first, side, upright=True), _glow(second, side, upright=False)])
    panel = muted[bands][:, None] + glow[bands, np.arange(side)] * _fade(side)[:, :, None]
    return np.rint(panel).astype(np.int16)


def draw_panel(
    tier: Tier, answer: str, *, side: int, plate: Colour, ink: Colour, phase: tuple[int, int]
) -> ImageArray:
    """One mark on its panel, ``(side, side, 3)``."""
    if tier == "code":
        panel = _code_panel(answer, side, plate, ink)
    else:
        levels = np.linspace(plate, ink, 256).astype(np.int16)
        share = ink_share(tier, answer, side=side, phase=phase)
        panel = levels.take((share * 255.9).astype(np.uint8), axis=0)
    dx, dy = phase[0] % _GRAIN_SHIFTS, phase[1] % _GRAIN_SHIFTS
    return np.clip(panel + _grain()[dy : dy + side, dx : dx + side], 0, 255).astype(np.uint8)
