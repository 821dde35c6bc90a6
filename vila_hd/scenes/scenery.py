"""The pieces of a town as flat drawings: houses, trees, people, cars, clouds, lamps and balloons."""

from collections.abc import Sequence

import numpy as np

from .marks import Colour
from .sprites import Light, Pen, Sprite
from .town import BAY, FLOOR, GROUND_FLOOR, House, Time

LIGHTS: dict[Time, Light] = {
    "morning": Light(
        ((134, 184, 220), (196, 216, 224), (252, 226, 204)),
        (1.0, 0.96, 0.92),
        0.06,
        (150, 178, 196),
        (255, 236, 190),
    ),
    "noon": Light(
        ((104, 170, 222), (150, 202, 236), (214, 234, 242)),
        (1.0, 1.0, 1.0),
        0.0,
        (128, 164, 190),
        (255, 240, 206),
    ),
    "evening": Light(
        ((66, 62, 112), (150, 98, 136), (248, 178, 140)),
        (0.74, 0.61, 0.68),
        0.45,
        (84, 82, 116),
        (255, 214, 150),
    ),
    "night": Light(
        ((14, 20, 46), (28, 40, 78), (58, 74, 116)), (0.36, 0.39, 0.56), 0.5, (40, 50, 84), (255, 212, 146)
    ),
}

# Kept pale or dull: only signs may be as saturated as signs are.
_WALLS: tuple[Colour, ...] = (
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
_ROOFS: tuple[Colour, ...] = ((122, 92, 90), (92, 100, 118), (78, 102, 104), (104, 88, 108), (138, 108, 92))
_LEAVES: tuple[Colour, ...] = ((104, 140, 106), (126, 152, 108), (88, 124, 106), (146, 156, 106))
_CLOTHES: tuple[Colour, ...] = (
    (120, 96, 110),
    (92, 112, 134),
    (150, 126, 104),
    (104, 126, 110),
    (176, 150, 140),
    (84, 86, 104),
    (168, 160, 150),
    (140, 110, 104),
)
_SKIN: tuple[Colour, ...] = ((236, 200, 174), (214, 168, 136), (160, 116, 90), (112, 80, 64))
_HAIR: tuple[Colour, ...] = ((66, 52, 48), (110, 82, 62), (176, 146, 104), (52, 46, 50), (150, 146, 144))
_WOOD: Colour = (112, 90, 78)
_TRIM: Colour = (236, 230, 220)


def _pick(options: Sequence[Colour], number: int) -> Colour:
    return options[number % len(options)]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (max(0, min(255, round(part * factor))) for part in colour)
    return red, green, blue


def draw_house(plan: House, light: Light) -> Sprite:
    """Draw a house; the sprite is ``plan.width + 2 * plan.margin`` wide and stands on its lower edge."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(plan.seed)))
    top = plan.roof_height + 40
    pen = Pen(plan.width + 2 * plan.margin, plan.wall_height + top)
    wall = light(_pick(_WALLS, plan.wall_tone))
    left, right, eaves, foot = plan.margin, plan.margin + plan.width, top, top + plan.wall_height
    _draw_roof(pen, plan, light, top)
    pen.box(left, eaves, right, foot, wall)
    pen.box(right - 22, eaves, right, foot, _shade(wall, 0.94))
    pen.box(left, eaves, right, eaves + 8, _shade(wall, 0.84))
    for floor in range(1, plan.floors):
        y = foot - GROUND_FLOOR - floor * FLOOR
        for bay in range(plan.bays):
            _draw_window(pen, rng, light, wall, left + 10 + bay * BAY + BAY / 2, y + 26, plan.seed)
        if floor > 1:
            pen.box(left, y + FLOOR - 2, right, y + FLOOR + 2, _shade(wall, 0.92))
    _draw_ground_floor(pen, rng, plan, light, wall, foot)
    return pen.sprite()


def _draw_roof(pen: Pen, plan: House, light: Light, eaves: float) -> None:
    roof = light(_pick(_ROOFS, plan.roof_tone))
    wall = light(_pick(_WALLS, plan.wall_tone))
    left, right, peak = plan.margin, plan.margin + plan.width, eaves - plan.roof_height
    middle, over = (left + right) / 2, plan.margin
    chimney = left + plan.width * (0.7 if plan.seed % 2 else 0.2)
    if plan.roof not in ("flat", "step"):
        pen.box(chimney, peak - 10, chimney + 26, eaves, light((150, 116, 104)))
        pen.box(chimney - 4, peak - 14, chimney + 30, peak - 4, light((120, 92, 86)))
    if plan.roof == "flat":
        pen.box(left - 6, peak, right + 6, eaves, _shade(wall, 0.8))
        pen.box(left - 6, peak, right + 6, peak + 8, _shade(wall, 0.68))
    elif plan.roof == "gable":
        pen.shape([(left - over, eaves + 6), (middle, peak), (right + over, eaves + 6)], roof)
        pen.shape([(left + 18, eaves + 6), (middle, peak + 22), (right - 18, eaves + 6)], wall)
        pen.oval(middle - 15, eaves - 42, middle + 15, eaves - 12, _shade(wall, 0.82))
        pen.oval(middle - 11, eaves - 38, middle + 11, eaves - 16, light.glass)
    elif plan.roof == "step":
        for step in range(4):
            inset, rise = step * plan.width / 9, plan.roof_height * (step + 1) / 4
            pen.box(left + inset, eaves - rise, right - inset, eaves + 2, wall)
            pen.box(left + inset - 3, eaves - rise, right - inset + 3, eaves - rise + 6, _shade(wall, 0.8))
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
                _shade(roof, 0.9),
                2,
            )
        if plan.roof == "mansard":
            for bay in range(plan.bays):
                x = left + 10 + bay * BAY + BAY / 2
                pen.box(x - 22, eaves - 62, x + 22, eaves + 2, _shade(wall, 1.02))
                pen.shape([(x - 28, eaves - 60), (x, eaves - 82), (x + 28, eaves - 60)], _shade(roof, 0.8))
                pen.box(x - 13, eaves - 52, x + 13, eaves - 8, light.glass)
    pen.box(
        left - over if plan.roof != "flat" else left,
        eaves,
        right + over if plan.roof != "flat" else right,
        eaves + 6,
        _shade(roof if plan.roof not in ("flat", "step") else wall, 0.8),
    )


def _draw_window(
    pen: Pen, rng: np.random.Generator, light: Light, wall: Colour, x: float, y: float, style: int
) -> None:
    """One window, 56 x 68 pixels, below and around (x, y)."""
    lit = rng.random() < light.lit
    glass = light.lamp if lit else light.glass
    trim = light(_TRIM)
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
            _shade(glass, 1.1),
        )
    elif rng.random() < 0.5:
        curtain = _shade(glass, 0.88)
        pen.shape([(x - 26, y + 2), (x - 4, y + 2), (x - 26, y + 60)], curtain)
        pen.shape([(x + 26, y + 2), (x + 4, y + 2), (x + 26, y + 60)], curtain)
    pen.box(x - 2, y + 2, x + 2, y + 66, trim)
    pen.box(x - 26, y + 24, x + 26, y + 27, trim)
    if shutters:
        tone = light(_pick(_ROOFS, style // 7))
        for x1 in (x - 50, x + 32):
            pen.box(x1, y - 2, x1 + 18, y + 70, tone)
            for slat in range(6):
                pen.box(x1 + 3, y + 5 + slat * 11, x1 + 15, y + 8 + slat * 11, _shade(tone, 0.86))
    pen.box(x - 36, y + 71, x + 36, y + 77, _shade(wall, 0.8))
    if style % 4 == 1 and rng.random() < 0.6:
        pen.box(x - 28, y + 62, x + 28, y + 74, light((140, 110, 96)))
        for spot in range(7):
            pen.oval(x - 30 + spot * 8.5, y + 52, x - 20 + spot * 8.5, y + 64, light(_pick(_LEAVES, spot)))


def _draw_ground_floor(
    pen: Pen, rng: np.random.Generator, plan: House, light: Light, wall: Colour, foot: float
) -> None:
    left = plan.margin
    pen.box(left, foot - 16, left + plan.width, foot, _shade(wall, 0.74))
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
    tone = light(_shade(_pick(_ROOFS, int(rng.integers(16))), 0.95))
    pen.box(x - 33, foot - 106, x + 33, foot, light(_TRIM), radius=8)
    pen.box(x - 27, foot - 100, x + 27, foot, tone, radius=5)
    pen.box(x - 20, foot - 92, x + 20, foot - 66, light.lamp if light.lit else light.glass)
    for x1 in (x - 20, x + 3):
        pen.box(x1, foot - 58, x1 + 17, foot - 10, _shade(tone, 0.84))
    pen.oval(x + 19, foot - 52, x + 25, foot - 46, light((206, 190, 150)))
    pen.box(x - 38, foot - 6, x + 38, foot, _shade(wall, 0.62))


def _draw_shop(pen: Pen, rng: np.random.Generator, light: Light, x: float, foot: float) -> None:
    cloth = light(_pick(_CLOTHES, int(rng.integers(16))))
    pen.box(x - 60, foot - 96, x + 60, foot - 8, light(_WOOD))
    glass = light.lamp if light.lit > 0.1 else _shade(light.glass, 1.12)
    pen.box(x - 54, foot - 90, x + 54, foot - 22, glass)
    for item in range(5):
        tall, x1 = int(rng.integers(10, 30)), x - 48 + item * 20
        pen.box(
            x1, foot - 22 - tall, x1 + 14, foot - 22, light(_pick(_CLOTHES, int(rng.integers(16)))), radius=3
        )
    pen.box(x - 54, foot - 22, x + 54, foot - 18, light(_TRIM))
    for stripe in range(8):
        tone = cloth if stripe % 2 else light((228, 220, 208))
        x1 = x - 64 + stripe * 16
        pen.shape([(x1 + 3, foot - 112), (x1 + 17, foot - 112), (x1 + 16, foot - 84), (x1, foot - 84)], tone)
        pen.oval(x1, foot - 90, x1 + 16, foot - 76, tone)


def draw_tree(variant: int, light: Light) -> Sprite:
    """A tree, 150 x 250 pixels at most."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((42, variant))))
    pen = Pen(150, 250)
    leaf = light(_pick(_LEAVES, variant))
    pen.box(70, 150, 80, 250, light(_WOOD))
    if variant % 4 == 3:
        for level in range(4):
            half, y = 26 + level * 13, 20 + level * 44
            pen.shape(
                [(75 - half, y + 76), (75, y), (75 + half, y + 76)], _shade(leaf, 0.84 + 0.05 * (3 - level))
            )
    else:
        pen.line([(75, 196), (50, 150)], light(_WOOD), 6)
        pen.line([(75, 186), (104, 140)], light(_WOOD), 6)
        blobs = [
            (float(rng.uniform(35, 115)), float(rng.uniform(50, 140)), float(rng.uniform(26, 38)))
            for _ in range(9)
        ] + [(75.0, 90.0, 46.0)]
        for shift, tone in ((8, 0.84), (0, 1.0), (-9, 1.1)):
            for x, y, radius in blobs:
                size = radius if tone < 1.05 else radius * 0.55
                pen.oval(
                    x - size - shift * 0.6,
                    y - size + shift,
                    x + size - shift * 0.6,
                    y + size + shift,
                    _shade(leaf, tone),
                )
    return pen.sprite()


def draw_lamp(light: Light) -> Sprite:
    """A street lamp, 40 x 200 pixels."""
    pen = Pen(40, 200)
    iron = light((84, 84, 92))
    pen.box(17, 36, 23, 200, iron)
    pen.box(12, 184, 28, 200, iron, radius=3)
    pen.shape(
        [(8, 14), (32, 14), (27, 42), (13, 42)], light.lamp if light.lit > 0.1 else light((220, 222, 216))
    )
    pen.shape([(4, 15), (20, 2), (36, 15)], iron)
    return pen.sprite()


def draw_person(variant: int, light: Light) -> Sprite:
    """Somebody, 40 x 88 pixels."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((43, variant))))
    pen = Pen(44, 88)
    coat, legs = (light(_pick(_CLOTHES, int(rng.integers(16)))) for _ in range(2))
    skin, hair = light(_pick(_SKIN, variant)), light(_pick(_HAIR, int(rng.integers(16))))
    step = float(rng.uniform(1, 6))
    for x in (19 - step, 19 + step):
        pen.box(x, 54, x + 7, 84, _shade(legs, 0.8))
        pen.box(x - 1, 82, x + 9, 88, light((70, 62, 62)), radius=2)
    if variant % 3 == 0:
        pen.shape([(14, 34), (30, 34), (36, 66), (8, 66)], coat)
    else:
        pen.box(12, 28, 32, 60, coat, radius=7)
    for x in (8, 30):
        pen.box(x, 31, x + 6, 56, _shade(coat, 0.88), radius=3)
        pen.oval(x, 52, x + 6, 59, skin)
    pen.oval(13, 6, 31, 26, skin)
    pen.shape([(13, 16), (14, 7), (22, 3), (30, 7), (31, 16), (27, 11), (17, 11)], hair)
    if variant % 4 == 1:
        pen.box(30, 52, 42, 66, light((150, 124, 100)), radius=2)
    return pen.sprite()


def draw_car(variant: int, light: Light) -> Sprite:
    """A car, 176 x 72 pixels."""
    pen = Pen(176, 72)
    body = light(
        (
            (176, 186, 190),
            (128, 142, 158),
            (196, 178, 160),
            (150, 160, 146),
            (168, 140, 140),
            (214, 208, 198),
            (112, 116, 130),
            (184, 170, 190),
        )[variant % 8]
    )
    pen.shape([(34, 32), (54, 6), (112, 6), (138, 32)], _shade(body, 0.94))
    pen.shape([(44, 32), (58, 12), (82, 12), (82, 32)], light.glass)
    pen.shape([(88, 32), (88, 12), (108, 12), (126, 32)], light.glass)
    pen.box(6, 30, 170, 58, body, radius=12)
    pen.box(6, 48, 170, 58, _shade(body, 0.82), radius=5)
    pen.box(84, 34, 86, 56, _shade(body, 0.8))
    pen.oval(160, 36, 170, 46, light.lamp)
    for x in (38, 134):
        pen.oval(x - 17, 38, x + 17, 72, light((58, 56, 62)))
        pen.oval(x - 8, 47, x + 8, 63, light((176, 176, 180)))
    return pen.sprite()


def draw_cloud(variant: int, light: Light) -> Sprite:
    """A flat cloud, about 360 x 110 pixels."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((44, variant))))
    pen = Pen(400, 120)
    near, far = light.sky[2], light.sky[1]
    red, green, blue = (round(0.6 * a + 0.4 * b) for a, b in zip(near, far, strict=True))
    for _ in range(6):
        x, size = float(rng.uniform(70, 330)), float(rng.uniform(26, 50))
        pen.oval(x - size, 96 - size * 1.5, x + size, 96 + size * 0.3, (red, green, blue))
    pen.box(20, 78, 380, 104, (red, green, blue), radius=13)
    return pen.sprite()


def draw_balloon(light: Light) -> Sprite:
    """A hot-air balloon, 150 x 210 pixels; a sign hangs below its basket."""
    pen = Pen(150, 210)
    cloth = light((222, 204, 182))
    pen.line([(40, 118), (66, 172)], light(_WOOD), 2)
    pen.line([(110, 118), (84, 172)], light(_WOOD), 2)
    pen.oval(5, 2, 145, 142, cloth)
    pen.shape([(16, 104), (134, 104), (92, 152), (58, 152)], cloth)
    for x1, x2 in ((30, 58), (92, 120)):
        pen.oval(x1, 4, x2, 140, _shade(cloth, 0.88))
    pen.oval(60, 2, 90, 142, _shade(cloth, 1.06))
    pen.box(60, 172, 90, 196, light((150, 116, 88)), radius=5)
    pen.box(58, 170, 92, 177, light((120, 92, 72)), radius=3)
    return pen.sprite()
