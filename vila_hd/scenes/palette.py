"""The colours of the town at each time of day. Only signs are as saturated as signs are."""

from collections.abc import Sequence
from typing import NamedTuple

from .marks import Colour
from .town import Time


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
    meadow: Colour
    glow: float
    """Opacity of the light around a street lamp."""

    def __call__(self, colour: Colour) -> Colour:
        """The colour of a thing in this light."""
        red, green, blue = (
            min(255, round(part * factor)) for part, factor in zip(colour, self.ambient, strict=True)
        )
        return red, green, blue


LIGHTS: dict[Time, Light] = {
    "morning": Light(
        ((134, 184, 220), (196, 216, 224), (252, 226, 204)),
        (1.0, 0.96, 0.92),
        0.06,
        (150, 178, 196),
        (255, 236, 190),
        (146, 170, 122),
        0.0,
    ),
    "noon": Light(
        ((104, 170, 222), (150, 202, 236), (214, 234, 242)),
        (1.0, 1.0, 1.0),
        0.0,
        (128, 164, 190),
        (255, 240, 206),
        (142, 172, 118),
        0.0,
    ),
    "evening": Light(
        ((66, 62, 112), (150, 98, 136), (248, 178, 140)),
        (0.74, 0.61, 0.68),
        0.45,
        (84, 82, 116),
        (255, 214, 150),
        (96, 104, 102),
        0.30,
    ),
    "night": Light(
        ((14, 20, 46), (28, 40, 78), (58, 74, 116)),
        (0.36, 0.39, 0.56),
        0.5,
        (40, 50, 84),
        (255, 212, 146),
        (44, 62, 72),
        0.42,
    ),
}

# Kept pale or dull: only signs may be as saturated as signs are.
WALLS: tuple[Colour, ...] = (
    (233, 219, 194),
    (222, 199, 168),
    (214, 178, 166),
    (186, 197, 178),
    (166, 180, 196),
    (190, 176, 196),
    (206, 204, 202),
    (200, 160, 138),
    (240, 230, 214),
    (176, 190, 190),
)
ROOFS: tuple[Colour, ...] = ((122, 92, 90), (92, 100, 118), (78, 102, 104), (104, 88, 108), (138, 108, 92))
LEAVES: tuple[Colour, ...] = ((104, 140, 106), (126, 152, 108), (88, 124, 106), (146, 156, 106))
CLOTHES: tuple[Colour, ...] = (
    (120, 96, 110),
    (92, 112, 134),
    (150, 126, 104),
    (104, 126, 110),
    (176, 150, 140),
    (84, 86, 104),
    (168, 160, 150),
    (140, 110, 104),
)
SKIN: tuple[Colour, ...] = ((236, 200, 174), (214, 168, 136), (160, 116, 90), (112, 80, 64))
HAIR: tuple[Colour, ...] = ((66, 52, 48), (110, 82, 62), (176, 146, 104), (52, 46, 50), (150, 146, 144))
WOOD: Colour = (112, 90, 78)
TRIM: Colour = (236, 230, 220)


def pick(options: Sequence[Colour], number: int) -> Colour:
    return options[number % len(options)]


def shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (max(0, min(255, round(part * factor))) for part in colour)
    return red, green, blue
