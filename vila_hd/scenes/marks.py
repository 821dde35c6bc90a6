"""The small marks on signs, in tiers of difficulty. None can be read in a picture that is five times smaller.

Every mark is made of fine patterns that repeat every 5 pixels, upwards or sideways, with a mean that does not
depend on what the mark says. Any sensible reduction by 5 (box, triangle, cubic) averages whole periods, so
nothing but a flat colour is left of it: the mark is absent from the smaller scales, not merely hard to see.

* ``texture``: one of twelve such patterns.
* ``code``: tiny coloured lamps, whose surround makes up for their colour: columns of the first colour on
  bands of the plate's muted colour, rows of the second on bands of the ink's.
* ``shape``, ``digit``, ``letter``: microprint as on banknotes, a figure of 4 x 7 pixels over and over.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

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


_SHAPE_ROWS: dict[str, str] = {
    "circle": "06FFF60", "square": "0F999F0", "triangle": "0266FF0", "star": "02F6690",
    "heart": "0AEEE40", "cross": "044E440", "moon": "06C88C6", "arrow": "06F6666",
}  # fmt: skip
_DIGIT_ROWS: dict[str, str] = {
    "0": "6999996", "1": "2622227", "2": "691248F", "3": "E11611E", "4": "26AAF22",
    "5": "F88E11E", "6": "688E996", "7": "F112244", "8": "6996996", "9": "6997116",
}  # fmt: skip
_LETTER_ROWS: dict[str, str] = {
    "a": "699F999", "b": "E99E99E", "c": "7888887", "d": "E99999E", "e": "F88E88F", "f": "F88E888",
    "g": "788B997", "h": "999F999", "j": "1111196", "k": "99ACA99", "l": "888888F", "m": "9FF9999",
    "n": "9DDBB99", "p": "E99E888", "r": "E99EA99", "s": "788611E", "t": "E444444", "u": "9999996",
    "v": "AAAAA44", "w": "9999FF9", "x": "9966699", "y": "AAA4444", "z": "F12248F",
}  # fmt: skip
"""Capitals without the ones that a digit could be taken for (I, O, Q); letters are answered in lower case."""
_PRINT_ROWS: dict[str, str] = {**_SHAPE_ROWS, **_DIGIT_ROWS, **_LETTER_ROWS}
"""A hexadecimal digit for each row of a figure from the top, a bit for each of its 4 pixels from the left."""


def answers(tier: Tier) -> tuple[str, ...]:
    """Every answer that marks of this tier can have."""
    return {
        "texture": TEXTURES,
        "code": CODES,
        "shape": tuple(_SHAPE_ROWS),
        "digit": tuple(_DIGIT_ROWS),
        "letter": tuple(_LETTER_ROWS),
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


def _texture_tile(name: str) -> FloatArray:
    """Ink per pixel of one period."""
    period, field = _TEXTURE_FIELDS[name]
    steps = (np.arange(period * _OVERSAMPLE) + 0.5) / _OVERSAMPLE
    # The tiny shift keeps samples off the zeros of the fields, where a tie would fall to one side only.
    values = field(steps[None, :] + 0.013, steps[:, None] + 0.007) + np.zeros((steps.size, steps.size))
    ink = values > np.median(values)
    tile = ink.reshape(period, _OVERSAMPLE, period, _OVERSAMPLE).mean((1, 3))
    # Ties at the median leave the mean off by up to a few percent, and that alone would be visible from afar.
    mean = tile.mean()
    return tile * (0.5 / mean) if mean > 0.5 else 1 - (1 - tile) * (0.5 / (1 - mean))


def _print_tile(name: str) -> FloatArray:
    """Ink per pixel of one figure of a print, with the gaps to its neighbours on the right and below."""
    bits = [[int(row, 16) >> bit & 1 for bit in (3, 2, 1, 0)] for row in _PRINT_ROWS[name]]
    figure = np.pad(np.array(bits, np.float64), ((0, 1), (0, 1)))
    # Every row of pixels has the same mean: from afar, a row of letters is an even line.
    relief = figure - figure.mean(axis=1, keepdims=True)
    return 0.5 + 0.5 * relief / np.abs(relief).max()


@cache
def _pattern(tier: Tier, answer: str) -> tuple[FloatArray, tuple[int, int]]:
    """Ink per pixel, tiled far enough to cut any panel at any phase, and the periods in pixels (y, x)."""
    tile = _texture_tile(answer) if tier == "texture" else _print_tile(answer)
    height, width = tile.shape
    repeats = [-(-(max(PANEL_SIDES) + period) // period) for period in (height, width)]
    return np.tile(tile, repeats).astype(np.float32), (height, width)


@cache
def _fade(side: int) -> FloatArray:
    """Contrast of a pattern, ``(side, side)``: it fades at the edges of its panel.

    A pattern that is cut off leaves half periods behind, whose mean would show in a smaller picture.
    """
    steps = np.clip((np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5) / _FADE, 0, 1)
    line = steps * steps * (3 - 2 * steps)
    return np.outer(line, line).astype(np.float32)


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
    pattern, (height, width) = _pattern(tier, answer)
    dx, dy = phase[0] % width, phase[1] % height
    return 0.5 + (pattern[dy : dy + side, dx : dx + side] - 0.5) * _fade(side)


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
