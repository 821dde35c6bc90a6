"""Strips as wide as the picture whose ends meet: the sky with what lies behind the town, and the streets."""

import numpy as np
import numpy.typing as npt

from .marks import Colour, ImageArray
from .palette import Light
from .town import STREET_HEIGHT, Place, Time

_STONE: Colour = (206, 200, 190)
_ROAD: Colour = (124, 124, 132)

_Rows = npt.NDArray[np.float32]


def _ridge(width: int, seed: int, roughness: float, *, waves: int = 9, first: int = 2) -> _Rows:
    """A hilly line, ``(width,)`` between about -1 and 1, whose ends meet."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((45, seed))))
    x = np.arange(width) / width * 2 * np.pi
    line = np.zeros(width)
    for number in range(waves):
        count = first + number * 2 + int(rng.integers(2))
        line += np.sin(count * x + rng.uniform(0, 2 * np.pi)) * (number + 1) ** -roughness
    return (line / np.abs(line).max()).astype(np.float32)


def _peaks(width: int, seed: int) -> _Rows:
    """A mountain line of straight slopes, ``(width,)`` between 0 and 1, whose ends meet."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((46, seed))))
    count = max(4, width // 300) * 2
    x = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count * width
    y = np.where(np.arange(count) % 2, rng.uniform(0.5, 1.0, count), rng.uniform(0.0, 0.35, count))
    return np.interp(np.arange(width), x, y, period=width).astype(np.float32)


def _fill_below(strip: _Rows, line: _Rows, colour: Colour) -> None:
    """Paint everything below a line of y per column, with a smooth edge."""
    top = max(0, int(line.min()) - 1)
    rows = np.arange(top, strip.shape[0], dtype=np.float32)[:, None]
    cover = np.clip(rows + 0.5 - line[None, :], 0, 1)[:, :, None]
    strip[top:] += (np.array(colour, np.float32) - strip[top:]) * cover


def _to_levels(strip: _Rows) -> ImageArray:
    strip += 0.5
    np.clip(strip, 0, 255, out=strip)
    return strip.astype(np.uint8)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def draw_sky(light: Light, time: Time, place: Place, width: int, height: int) -> ImageArray:
    """The sky, the sun or the moon, and what lies behind the town; ``height`` reaches to the first street."""
    stops = np.linspace(0, height * 0.8, 3)
    gradient = np.stack(
        [np.interp(np.arange(height), stops, [colour[part] for colour in light.sky]) for part in range(3)],
        axis=1,
    )
    strip = np.repeat(gradient.astype(np.float32)[:, None], width, axis=1)
    if time == "night":
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(47)))
        for _ in range(width // 12):
            x, y = int(rng.integers(2, width - 3)), int(rng.integers(4, max(5, height * 6 // 10)))
            strip[y : y + 2, x : x + 2] = strip[y, x] + rng.uniform(40, 120)
    _draw_disc(strip, light, time, width, height)
    low = light.sky[2]
    base = height - 330.0
    if place == "mountains":
        for layer, share in enumerate((0.30, 0.5)):
            line = base + 120 + layer * 60 - (250 - 70 * layer) * _peaks(width, layer)
            _fill_below(strip, line, _mix(low, light((110, 118, 146)), share))
    elif place == "hills":
        for layer, share in enumerate((0.3, 0.5, 0.75)):
            line = base + 40 + layer * 70 - (70 - 10 * layer) * _ridge(width, layer, 1.2)
            _fill_below(strip, line, _mix(low, light((112, 146, 118)), share))
    else:
        sea = _mix(low, light((70, 126, 156)), 0.75)
        _fill_below(strip, np.full(width, base + 40, np.float32), sea)
        for row in range(9):
            y = int(base + 48 + row * row * 4)
            bright = _ridge(width, 20 + row, 0.2, waves=12, first=8 + row) > 0.35
            strip[y : y + 2 + row // 3, bright] += (
                np.array(low, np.float32) - np.array(sea, np.float32)
            ) * 0.5
        _fill_below(strip, base + 150 - 30 * _ridge(width, 7, 1.2), _mix(low, light((126, 148, 128)), 0.8))
    _fill_below(strip, base + 200 - 16 * _ridge(width, 9, 0.7, waves=20, first=6), light((118, 140, 112)))
    return _to_levels(strip)


def _draw_disc(strip: _Rows, light: Light, time: Time, width: int, height: int) -> None:
    """The sun with a soft glow; at night the moon."""
    x, y, radius = width * 0.62, height * {"noon": 0.14, "evening": 0.5}.get(time, 0.3), 46.0
    glow = 420
    x1, x2, y1, y2 = (
        int(max(0, x - glow)),
        int(min(width, x + glow)),
        int(max(0, y - glow)),
        int(min(height, y + glow)),
    )
    distance = np.hypot(np.arange(x1, x2)[None, :] - x, np.arange(y1, y2)[:, None] - y).astype(np.float32)
    part = strip[y1:y2, x1:x2]
    shine = np.array((255, 244, 222) if time != "night" else (226, 230, 240), np.float32)
    part += (shine - part) * (0.35 * np.clip(1 - distance / glow, 0, 1)[:, :, None] ** 2)
    part += (shine - part) * np.clip(radius + 0.5 - distance, 0, 1)[:, :, None] * 0.9


def draw_street(light: Light, width: int, above: int) -> ImageArray:
    """A garden slope of ``above`` pixels, then the street with its pavements."""
    strip = np.empty((above + STREET_HEIGHT, width, 3), np.float32)
    stone, road = light(_STONE), light(_ROAD)
    x = np.arange(width)
    if above:
        _draw_slope(strip[:above], light)
    strip[above : above + 40] = stone
    strip[above : above + 40, x % 64 < 2] *= 0.93
    strip[above + 20 : above + 22] *= 0.95
    strip[above + 40 : above + 46] = np.array(stone, np.float32) * 0.78
    strip[above + 46 : above + 104] = road
    dashes = x % 120 < 60
    strip[above + 73 : above + 77, dashes] = np.array(light((196, 192, 186)), np.float32)
    strip[above + 104 : above + 110] = np.array(stone, np.float32) * 0.8
    strip[above + 110 :] = stone
    strip[above + 110 :, x % 64 < 2] *= 0.93
    return _to_levels(strip)


def _draw_slope(slope: _Rows, light: Light) -> None:
    """Meadows with hedges between them, a path along the top and a fence."""
    above, width, _ = slope.shape
    meadow = np.array(light.meadow, np.float32)
    slope[:] = meadow * np.linspace(0.9, 1.06, above, dtype=np.float32)[:, None, None]
    x = np.arange(width)
    for layer in range(5):
        foot = 60 + layer * 84
        tops = foot - 18 - 16 * np.abs(_ridge(width, 30 + layer, 0.1, waves=26, first=14))
        rows = np.arange(max(0, foot - 40), min(above, foot), dtype=np.float32)[:, None]
        part = slope[int(rows[0, 0]) : int(rows[-1, 0]) + 1]
        cover = np.clip(rows + 0.5 - tops[None, :], 0, 1)[:, :, None]
        part += (meadow * (0.78 + 0.02 * layer) - part) * cover
        slope[foot : foot + 5] *= 0.93
    post, rail = np.array(light((222, 214, 202)), np.float32), np.array(light((204, 196, 184)), np.float32)
    slope[14:18] = rail
    slope[28:32] = rail
    slope[8:44, x % 80 < 7] = post
