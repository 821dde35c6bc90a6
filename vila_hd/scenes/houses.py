"""Houses as flat drawings."""

import numpy as np

from .marks import Colour
from .palette import CLOTHES, LEAVES, ROOFS, TRIM, WALLS, WOOD, Light, pick, shade
from .sprites import Pen, Sprite
from .town import BAY, FLOOR, GROUND_FLOOR, House


def draw_house(plan: House, light: Light) -> Sprite:
    """Draw a house; the sprite is ``plan.width + 2 * plan.margin`` wide and stands on its lower edge."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(plan.seed)))
    top = plan.roof_height + 40
    pen = Pen(plan.width + 2 * plan.margin, plan.wall_height + top)
    wall = light(pick(WALLS, plan.wall_tone))
    left, right, eaves, foot = plan.margin, plan.margin + plan.width, top, top + plan.wall_height
    _draw_roof(pen, plan, light, top)
    pen.box(left, eaves, right, foot, wall)
    pen.box(right - 22, eaves, right, foot, shade(wall, 0.94))
    pen.box(left, eaves, right, eaves + 8, shade(wall, 0.84))
    for floor in range(1, plan.floors):
        y = foot - GROUND_FLOOR - floor * FLOOR
        for bay in range(plan.bays):
            _draw_window(pen, rng, light, wall, left + 10 + bay * BAY + BAY / 2, y + 26, plan.seed)
        if floor > 1:
            pen.box(left, y + FLOOR - 2, right, y + FLOOR + 2, shade(wall, 0.92))
    _draw_ground_floor(pen, rng, plan, light, wall, foot)
    return pen.sprite()


def _draw_roof(pen: Pen, plan: House, light: Light, eaves: float) -> None:
    roof = light(pick(ROOFS, plan.roof_tone))
    wall = light(pick(WALLS, plan.wall_tone))
    left, right, peak = plan.margin, plan.margin + plan.width, eaves - plan.roof_height
    middle, over = (left + right) / 2, plan.margin
    chimney = left + plan.width * (0.7 if plan.seed % 2 else 0.2)
    if plan.roof not in ("flat", "step"):
        pen.box(chimney, peak - 10, chimney + 26, eaves, light((150, 116, 104)))
        pen.box(chimney - 4, peak - 14, chimney + 30, peak - 4, light((120, 92, 86)))
    if plan.roof == "flat":
        pen.box(left - 6, peak, right + 6, eaves, shade(wall, 0.8))
        pen.box(left - 6, peak, right + 6, peak + 8, shade(wall, 0.68))
    elif plan.roof == "gable":
        pen.shape([(left - over, eaves + 6), (middle, peak), (right + over, eaves + 6)], roof)
        pen.shape([(left + 18, eaves + 6), (middle, peak + 22), (right - 18, eaves + 6)], wall)
        pen.oval(middle - 15, eaves - 42, middle + 15, eaves - 12, shade(wall, 0.82))
        pen.oval(middle - 11, eaves - 38, middle + 11, eaves - 16, light.glass)
    elif plan.roof == "step":
        for step in range(4):
            inset, rise = step * plan.width / 9, plan.roof_height * (step + 1) / 4
            pen.box(left + inset, eaves - rise, right - inset, eaves + 2, wall)
            pen.box(left + inset - 3, eaves - rise, right - inset + 3, eaves - rise + 6, shade(wall, 0.8))
        pen.oval(middle - 13, eaves - 50, middle + 13, eaves - 20, light.glass)
    else:
        slope = 0.34 if plan.roof == "hip" else 0.1
        ridge = plan.width * slope
        pen.shape(
            [
                (left - over, eaves + 6),
                (left + ridge, peak),
                (right - ridge, peak),
                (right + over, eaves + 6),
            ],
            roof,
        )
        rows = max(2, plan.roof_height // 20)
        for row in range(1, rows):
            share = row / rows
            pen.line(
                [
                    (left - over + (ridge + over) * (1 - share), peak + plan.roof_height * share),
                    (right + over - (ridge + over) * (1 - share), peak + plan.roof_height * share),
                ],
                shade(roof, 0.9),
                2,
            )
        if plan.roof == "mansard":
            for bay in range(plan.bays):
                x = left + 10 + bay * BAY + BAY / 2
                pen.box(x - 22, eaves - 62, x + 22, eaves + 2, shade(wall, 1.02))
                pen.shape([(x - 28, eaves - 60), (x, eaves - 82), (x + 28, eaves - 60)], shade(roof, 0.8))
                pen.box(x - 13, eaves - 52, x + 13, eaves - 8, light.glass)
    pen.box(
        left - over if plan.roof != "flat" else left,
        eaves,
        right + over if plan.roof != "flat" else right,
        eaves + 6,
        shade(roof if plan.roof not in ("flat", "step") else wall, 0.8),
    )


def _draw_window(
    pen: Pen, rng: np.random.Generator, light: Light, wall: Colour, x: float, y: float, style: int
) -> None:
    """One window, 56 x 68 pixels, below and around (x, y)."""
    lit = rng.random() < light.lit
    glass = light.lamp if lit else light.glass
    trim = light(TRIM)
    shutters = style % 3 == 0
    pen.box(x - 31, y - 3, x + 31, y + 71, trim)
    pen.box(x - 26, y + 2, x + 26, y + 66, glass)
    if not lit:
        pen.shape(
            [
                (x - 26, y + 66),
                (x - 26, y + 40),
                (x + 10, y + 2),
                (x + 26, y + 2),
                (x + 26, y + 10),
                (x - 20, y + 66),
            ],
            shade(glass, 1.1),
        )
    elif rng.random() < 0.5:
        curtain = shade(glass, 0.88)
        pen.shape([(x - 26, y + 2), (x - 4, y + 2), (x - 26, y + 60)], curtain)
        pen.shape([(x + 26, y + 2), (x + 4, y + 2), (x + 26, y + 60)], curtain)
    pen.box(x - 2, y + 2, x + 2, y + 66, trim)
    pen.box(x - 26, y + 24, x + 26, y + 27, trim)
    if shutters:
        tone = light(pick(ROOFS, style // 7))
        for x1 in (x - 50, x + 32):
            pen.box(x1, y - 2, x1 + 18, y + 70, tone)
            for slat in range(6):
                pen.box(x1 + 3, y + 5 + slat * 11, x1 + 15, y + 8 + slat * 11, shade(tone, 0.86))
    pen.box(x - 36, y + 71, x + 36, y + 77, shade(wall, 0.8))
    if style % 4 == 1 and rng.random() < 0.6:
        pen.box(x - 28, y + 62, x + 28, y + 74, light((140, 110, 96)))
        for spot in range(7):
            pen.oval(x - 30 + spot * 8.5, y + 52, x - 20 + spot * 8.5, y + 64, light(pick(LEAVES, spot)))


def _draw_ground_floor(
    pen: Pen, rng: np.random.Generator, plan: House, light: Light, wall: Colour, foot: float
) -> None:
    left = plan.margin
    pen.box(left, foot - 16, left + plan.width, foot, shade(wall, 0.74))
    door_bay = int(rng.integers(plan.bays))
    for bay in range(plan.bays):
        x = left + 10 + bay * BAY + BAY / 2
        if bay == door_bay:
            _draw_door(pen, rng, light, wall, x, foot)
        elif plan.shop:
            _draw_shop(pen, rng, light, x, foot)
        else:
            _draw_window(pen, rng, light, wall, x, foot - 108, plan.seed)


def _draw_door(pen: Pen, rng: np.random.Generator, light: Light, wall: Colour, x: float, foot: float) -> None:
    tone = light(shade(pick(ROOFS, int(rng.integers(16))), 0.95))
    pen.box(x - 33, foot - 106, x + 33, foot, light(TRIM), radius=8)
    pen.box(x - 27, foot - 100, x + 27, foot, tone, radius=5)
    pen.box(x - 20, foot - 92, x + 20, foot - 66, light.lamp if light.lit else light.glass)
    for x1 in (x - 20, x + 3):
        pen.box(x1, foot - 58, x1 + 17, foot - 10, shade(tone, 0.84))
    pen.oval(x + 19, foot - 52, x + 25, foot - 46, light((206, 190, 150)))
    pen.box(x - 38, foot - 6, x + 38, foot, shade(wall, 0.62))


def _draw_shop(pen: Pen, rng: np.random.Generator, light: Light, x: float, foot: float) -> None:
    cloth = light(pick(CLOTHES, int(rng.integers(16))))
    pen.box(x - 60, foot - 96, x + 60, foot - 8, light(WOOD))
    glass = light.lamp if light.lit > 0.1 else shade(light.glass, 1.12)
    pen.box(x - 54, foot - 90, x + 54, foot - 22, glass)
    for item in range(5):
        tall, x1 = int(rng.integers(10, 30)), x - 48 + item * 20
        pen.box(
            x1, foot - 22 - tall, x1 + 14, foot - 22, light(pick(CLOTHES, int(rng.integers(16)))), radius=3
        )
    pen.box(x - 54, foot - 22, x + 54, foot - 18, light(TRIM))
    for stripe in range(8):
        tone = cloth if stripe % 2 else light((228, 220, 208))
        x1 = x - 64 + stripe * 16
        pen.shape([(x1 + 3, foot - 112), (x1 + 17, foot - 112), (x1 + 16, foot - 84), (x1, foot - 84)], tone)
        pen.oval(x1, foot - 90, x1 + 16, foot - 76, tone)
