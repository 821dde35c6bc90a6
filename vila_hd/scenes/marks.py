"""The small marks on signs, in tiers of difficulty. All of them are gone in any picture five times smaller.

Every mark is a fine periodic pattern whose mean is the same whatever the mark says, so that an antialiased reduction
leaves a flat colour: patterns and shapes cover exactly half (or one fixed share) of their panel, colour codes carry a
compensating rim around each lamp, glyphs a faint tint between them.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Tier = Literal["texture", "code", "shape", "digit", "letter"]
TIERS: tuple[Tier, ...] = get_args(Tier)
"""From the easiest to learn to the hardest."""

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

PANEL_STEP = 12
"""Panel sides are multiples of this many pixels, so that whole lamps and shapes fit."""

CODE_COLOURS: Mapping[str, Colour] = MappingProxyType(
    {"red": (255, 40, 40), "green": (40, 220, 70), "blue": (60, 100, 255), "yellow": (255, 220, 40)}
)
CODE_PANEL: Colour = (88, 88, 92)
"""Mean colour of every code panel."""

_LAMP_CELL, _LAMP = 6, 3
_OVERSAMPLE = 16
_FieldFunction = Callable[[FloatArray, FloatArray], FloatArray]


def _lattice(field: _FieldFunction, cell: float, *, centred: bool) -> _FieldFunction:
    """Repeat ``field`` (largest at the origin) on a square lattice, with a second site in the middle if centred."""
    sites = [(0.0, 0.0), (cell / 2, cell / 2)] if centred else [(0.0, 0.0)]

    def repeated(x: FloatArray, y: FloatArray) -> FloatArray:
        layers = [
            field((x - sx + cell / 2) % cell - cell / 2, (y - sy + cell / 2) % cell - cell / 2)
            for sx, sy in sites
        ]
        return np.maximum.reduce(layers)

    return repeated


def _wave(x: FloatArray, period: float) -> FloatArray:
    return np.cos(2 * np.pi * x / period)


def _sawtooth(x: FloatArray, period: float) -> FloatArray:
    """Triangle wave between 0 and 1."""
    return np.abs((x / period) % 1.0 * 2.0 - 1.0)


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    near, far = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return -np.maximum(2.4 * near, far)


def _bricks(x: FloatArray, y: FloatArray) -> FloatArray:
    row = np.floor(y / 4)
    across = (x + 4 * row) % 8 - 4
    return -np.maximum(np.abs(across) - 2, np.abs(y % 4 - 2))


_TEXTURE_FIELDS: dict[str, tuple[int, _FieldFunction]] = {
    "horizontal": (6, lambda x, y: _wave(y, 6)),
    "vertical": (6, lambda x, y: _wave(x, 6)),
    "rising": (8, lambda x, y: _wave(x + y, 8)),
    "falling": (8, lambda x, y: _wave(x - y, 8)),
    "checker": (8, lambda x, y: _wave(x, 8) * _wave(y, 8)),
    "dots": (6, _lattice(lambda x, y: -np.hypot(x, y), 6, centred=False)),
    "rings": (8, _lattice(lambda x, y: -np.abs(np.hypot(x, y) - 2.0), 8, centred=True)),
    "grid": (6, lambda x, y: np.maximum(np.abs(x % 6 - 3), np.abs(y % 6 - 3))),
    "bricks": (8, _bricks),
    "zigzag": (24, lambda x, y: _wave(y + 4 * _sawtooth(x, 8), 6)),
    "crosses": (8, _lattice(_cross, 8, centred=True)),
    "triangles": (24, lambda x, y: (y / 6) % 1.0 - 1.4 * _sawtooth(x + 4 * (np.floor(y / 6) % 2), 8)),
}
"""Name -> (a period of both axes in pixels, a field that is above its own median where the ink goes)."""

TEXTURES: tuple[str, ...] = tuple(_TEXTURE_FIELDS)


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    angle = np.arctan2(x, -y)
    sector = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1.0 - 0.5)
    return -np.hypot(x, y) * (1 + 3.2 * sector)


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    return -np.hypot(x, 1.15 * (y + 0.9) - 1.25 * np.sqrt(np.abs(x)))


def _moon(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.minimum(5.2 - np.hypot(x, y), np.hypot(x - 3.0, y) - 3.6)


def _arrow(x: FloatArray, y: FloatArray) -> FloatArray:
    head = np.minimum(y + 5.0 - np.abs(x) * 1.1, 0.4 - y)
    shaft = np.minimum(1.3 - np.abs(x), 5.0 - np.abs(y))
    return np.maximum(head, shaft)


_SHAPE_FIELDS: dict[str, _FieldFunction] = {
    "circle": lambda x, y: -np.hypot(x, y),
    "square": lambda x, y: -np.maximum(np.abs(x), np.abs(y)),
    "triangle": lambda x, y: -np.maximum(y - 0.6, 0.9 * np.abs(x) * 2 - y),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
    "arrow": _arrow,
}
SHAPES: tuple[str, ...] = tuple(_SHAPE_FIELDS)
_SHAPE_CELL = 12
_SHAPE_COVERAGE = 0.3

DIGITS: tuple[str, ...] = tuple("0123456789")
LETTERS: tuple[str, ...] = tuple("ABCDEFGHJKLMNPRSTUVWXYZ")
"""Capital letters without the ones that a digit could be taken for (I, O, Q)."""

_GLYPH_CELL = (8, 12)
_GLYPH_COVERAGE = 0.30

CODES: tuple[str, ...] = tuple(f"{a} {b}" for a in CODE_COLOURS for b in CODE_COLOURS)


def answers(tier: Tier) -> tuple[str, ...]:
    """Every answer that marks of this tier can have. Letters are answered in lower case."""
    return {
        "texture": TEXTURES,
        "code": CODES,
        "shape": SHAPES,
        "digit": DIGITS,
        "letter": tuple(letter.lower() for letter in LETTERS),
    }[tier]


def _tile(field: _FieldFunction, width: int, height: int, share: float) -> FloatArray:
    """Ink share per pixel of one period, with mean exactly ``share``."""
    steps_x = (np.arange(width * _OVERSAMPLE, dtype=np.float32) + 0.5) / _OVERSAMPLE
    steps_y = (np.arange(height * _OVERSAMPLE, dtype=np.float32) + 0.5) / _OVERSAMPLE
    values = field(steps_x[None, :], steps_y[:, None]) + np.zeros((steps_y.size, steps_x.size), np.float32)
    ink = values > np.quantile(values, 1 - share)
    tile = ink.reshape(height, _OVERSAMPLE, width, _OVERSAMPLE).mean((1, 3), dtype=np.float64)
    # Ties at the threshold leave the mean off by up to a few percent, and that alone would be visible from afar.
    mean = tile.mean()
    tile = tile * (share / mean) if mean > share else 1 - (1 - tile) * ((1 - share) / (1 - mean))
    return tile.astype(np.float32)


def _glyph_tile(glyph: str) -> FloatArray:
    width, height = _GLYPH_CELL
    image = Image.new("L", (width, height), 0)
    ImageDraw.Draw(image).text((1, 0), glyph, fill=255, font=ImageFont.load_default_imagefont())
    ink = np.asarray(image, np.float32) / 255
    tint = (_GLYPH_COVERAGE - ink.mean()) / (1 - ink.mean())
    return np.maximum(ink, np.float32(tint))


def _build_tile(tier: Tier, answer: str) -> FloatArray:
    if tier == "texture":
        period, field = _TEXTURE_FIELDS[answer]
        return _tile(field, period, period, 0.5)
    if tier == "shape":
        half = _SHAPE_CELL / 2
        field = _SHAPE_FIELDS[answer]
        return _tile(lambda x, y: field(x - half, y - half), _SHAPE_CELL, _SHAPE_CELL, _SHAPE_COVERAGE)
    return _glyph_tile(answer.upper())


@cache
def _pattern(tier: Tier, answer: str) -> tuple[FloatArray, tuple[int, int]]:
    """The ink map tiled far enough to cut any panel at any phase, and its period (width, height)."""
    tile = _build_tile(tier, answer)
    height, width = tile.shape
    return np.tile(tile, (-(-160 // height), -(-160 // width))), (width, height)


def ink_share(tier: Tier, answer: str, side: int, phase: tuple[int, int]) -> FloatArray:
    """How much ink each pixel of a panel carries.

    Args:
        tier: every tier but ``code``.
        side: of the panel, in pixels, at most 120.
        phase: shift of the pattern to the left and up, in pixels.

    Returns:
        ``(side, side)`` between 0 (plate) and 1 (ink).
    """
    pattern, (width, height) = _pattern(tier, answer)
    dx, dy = phase[0] % width, phase[1] % height
    return pattern[dy : dy + side, dx : dx + side]


def _code_half(name: str, width: int, height: int) -> ImageArray:
    lamp = np.array(CODE_COLOURS[name], np.float64)
    area = _LAMP * _LAMP / _LAMP_CELL**2
    mean = np.array(CODE_PANEL, np.float64)
    rim = (mean - lamp * area) / (1 - area)
    cell = np.empty((_LAMP_CELL, _LAMP_CELL, 3))
    cell[:] = rim
    start = (_LAMP_CELL - _LAMP) // 2
    cell[start : start + _LAMP, start : start + _LAMP] = lamp
    return np.tile(np.rint(cell).astype(np.uint8), (height // _LAMP_CELL, width // _LAMP_CELL, 1))


@cache
def _code_panel(answer: str, side: int) -> ImageArray:
    left, right = answer.split()
    return np.concatenate([_code_half(left, side // 2, side), _code_half(right, side // 2, side)], axis=1)


def draw_panel(
    tier: Tier, answer: str, *, side: int, plate: Colour, ink: Colour, phase: tuple[int, int]
) -> ImageArray:
    """One mark on its panel.

    Returns:
        ``(side, side, 3)``.
    """
    if tier == "code":
        return _code_panel(answer, side)
    share = ink_share(tier, answer, side, phase)[:, :, None]
    low, high = np.array(plate, np.float32), np.array(ink, np.float32)
    return (low + (high - low) * share + 0.5).astype(np.uint8)
