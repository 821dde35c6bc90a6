"""What stands in the streets and flies above them, as flat drawings."""

from collections.abc import Callable

import numpy as np

from .palette import CLOTHES, HAIR, LEAVES, SKIN, WOOD, Light, pick, shade
from .sprites import Pen, Sprite


def draw_tree(variant: int, light: Light) -> Sprite:
    """A tree, 150 x 250 pixels at most."""
    rng = _rng(42, variant)
    pen = Pen(150, 250)
    leaf = light(pick(LEAVES, variant))
    pen.box(70, 150, 80, 250, light(WOOD))
    if variant % 4 == 3:
        for level in range(4):
            half, y = 26.0 + level * 13, 20.0 + level * 44
            pen.shape(
                [(75 - half, y + 76), (75, y), (75 + half, y + 76)], shade(leaf, 0.84 + 0.05 * (3 - level))
            )
    else:
        pen.line([(75, 196), (50, 150)], light(WOOD), 6)
        pen.line([(75, 186), (104, 140)], light(WOOD), 6)
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
                    shade(leaf, tone),
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
    rng = _rng(43, variant)
    pen = Pen(44, 88)
    coat, legs = (light(pick(CLOTHES, int(rng.integers(16)))) for _ in range(2))
    skin, hair = light(pick(SKIN, variant)), light(pick(HAIR, int(rng.integers(16))))
    step = float(rng.uniform(1, 6))
    for x in (19 - step, 19 + step):
        pen.box(x, 54, x + 7, 84, shade(legs, 0.8))
        pen.box(x - 1, 82, x + 9, 88, light((70, 62, 62)), radius=2)
    if variant % 3 == 0:
        pen.shape([(14, 34), (30, 34), (36, 66), (8, 66)], coat)
    else:
        pen.box(12, 28, 32, 60, coat, radius=7)
    for x in (8, 30):
        pen.box(x, 31, x + 6, 56, shade(coat, 0.88), radius=3)
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
    pen.shape([(34, 32), (54, 6), (112, 6), (138, 32)], shade(body, 0.94))
    pen.shape([(44, 32), (58, 12), (82, 12), (82, 32)], light.glass)
    pen.shape([(88, 32), (88, 12), (108, 12), (126, 32)], light.glass)
    pen.box(6, 30, 170, 58, body, radius=12)
    pen.box(6, 48, 170, 58, shade(body, 0.82), radius=5)
    pen.box(84, 34, 86, 56, shade(body, 0.8))
    pen.oval(160, 36, 170, 46, light.lamp)
    for x in (38, 134):
        pen.oval(x - 17, 38, x + 17, 72, light((58, 56, 62)))
        pen.oval(x - 8, 47, x + 8, 63, light((176, 176, 180)))
    return pen.sprite()


def draw_cloud(variant: int, light: Light) -> Sprite:
    """A flat cloud, about 360 x 110 pixels."""
    rng = _rng(44, variant)
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
    pen.line([(40, 118), (66, 172)], light(WOOD), 2)
    pen.line([(110, 118), (84, 172)], light(WOOD), 2)
    pen.oval(5, 2, 145, 142, cloth)
    pen.shape([(16, 104), (134, 104), (92, 152), (58, 152)], cloth)
    for x1, x2 in ((30, 58), (92, 120)):
        pen.oval(x1, 4, x2, 140, shade(cloth, 0.88))
    pen.oval(60, 2, 90, 142, shade(cloth, 1.06))
    pen.box(60, 172, 90, 196, light((150, 116, 88)), radius=5)
    pen.box(58, 170, 92, 177, light((120, 92, 72)), radius=3)
    return pen.sprite()


def draw_glow(light: Light) -> Sprite:
    """The light around a street lamp, 240 x 240 pixels."""
    steps = np.arange(240) - 119.5
    distance = np.hypot(steps[None, :], steps[:, None]) / 120
    rgba = np.empty((240, 240, 4), np.uint8)
    rgba[:, :, :3] = light.lamp
    rgba[:, :, 3] = 255 * light.glow * np.clip(1 - distance, 0, 1) ** 2
    return Sprite.cut(rgba)


def draw_bush(variant: int, light: Light) -> Sprite:
    """A round bush, 120 x 76 pixels."""
    rng = _rng(49, variant)
    pen = Pen(120, 76)
    leaf = light(pick(LEAVES, variant))
    blobs = [
        (float(rng.uniform(30, 90)), float(rng.uniform(30, 54)), float(rng.uniform(16, 26))) for _ in range(6)
    ]
    for shift, tone in ((5, 0.84), (0, 0.98), (-6, 1.08)):
        for x, y, radius in blobs:
            size = radius if tone < 1.05 else radius * 0.5
            pen.oval(
                x - size - shift, y - size + shift, x + size - shift, y + size + shift, shade(leaf, tone)
            )
    return pen.sprite()


def draw_cat(variant: int, light: Light) -> Sprite:
    """A sitting cat, 30 x 38 pixels."""
    pen = Pen(30, 38)
    fur = light(pick(HAIR, variant))
    pen.line([(21, 34), (28, 30), (27, 20)], fur, 3)
    pen.oval(7, 15, 23, 38, fur)
    pen.oval(6, 5, 20, 19, fur)
    pen.shape([(6, 11), (7, 1), (12, 6)], fur)
    pen.shape([(20, 11), (19, 1), (14, 6)], fur)
    return pen.sprite()


def draw_dog(variant: int, light: Light) -> Sprite:
    """A walking dog, 56 x 40 pixels."""
    pen = Pen(56, 40)
    fur = light(pick(HAIR, variant + 1))
    pen.line([(10, 18), (4, 8)], fur, 3)
    pen.box(8, 14, 42, 28, fur, radius=6)
    for x in (10, 16, 32, 38):
        pen.box(x, 24, x + 4, 40, shade(fur, 0.9))
    pen.oval(34, 4, 50, 19, fur)
    pen.box(44, 10, 55, 18, fur, radius=3)
    pen.box(36, 5, 41, 16, shade(fur, 0.8), radius=2)
    return pen.sprite()


def draw_bicycle(variant: int, light: Light) -> Sprite:
    """A parked bicycle, 92 x 60 pixels."""
    pen = Pen(92, 60)
    frame, tyre = light(pick(CLOTHES, variant + 1)), light((66, 64, 70))
    for x in (2, 54):
        for angle in range(24):
            first, second = (np.pi / 12 * (angle + step) for step in (0, 1.1))
            pen.line(
                [(x + 18 + 16 * np.cos(turn), 42 + 16 * np.sin(turn)) for turn in (first, second)], tyre, 3
            )
    pen.line([(20, 42), (34, 18), (62, 18), (46, 42), (20, 42)], frame, 3)
    pen.line([(46, 42), (34, 18), (31, 11)], frame, 3)
    pen.line([(72, 42), (61, 10), (70, 6)], frame, 3)
    pen.box(24, 8, 40, 12, tyre, radius=2)
    return pen.sprite()


def draw_bench(variant: int, light: Light) -> Sprite:
    """A bench, 100 x 48 pixels."""
    del variant
    pen = Pen(100, 48)
    wood, iron = light((156, 126, 98)), light((84, 84, 92))
    for x in (12, 82):
        pen.box(x, 2, x + 6, 48, iron)
    for y in (4, 14):
        pen.box(4, y, 96, y + 7, wood, radius=2)
    pen.box(2, 26, 98, 33, shade(wood, 0.9), radius=2)
    return pen.sprite()


def draw_bird(variant: int, light: Light) -> Sprite:
    """A gull far away, 40 x 18 pixels."""
    pen = Pen(40, 18)
    lift = 4 * (variant % 3)
    tone = light((96, 96, 112))
    pen.line([(2, 4 + lift), (12, 3), (20, 12), (28, 3), (38, 4 + lift)], tone, 2.5)
    return pen.sprite()


def draw_boat(variant: int, light: Light) -> Sprite:
    """A sailing boat, 110 x 124 pixels."""
    pen = Pen(110, 124)
    sail = light(((226, 216, 200), (206, 190, 176), (190, 196, 200))[variant % 3])
    pen.box(54, 6, 57, 100, light(WOOD))
    pen.shape([(60, 10), (60, 92), (100, 92)], sail)
    pen.shape([(51, 22), (51, 92), (22, 92)], shade(sail, 0.9))
    pen.shape([(10, 98), (104, 98), (88, 118), (24, 118)], light((126, 98, 88)))
    return pen.sprite()


DRAW: dict[str, Callable[[int, Light], Sprite]] = {
    "tree": draw_tree,
    "bush": draw_bush,
    "person": draw_person,
    "car": draw_car,
    "cloud": draw_cloud,
    "cat": draw_cat,
    "dog": draw_dog,
    "bicycle": draw_bicycle,
    "bench": draw_bench,
    "bird": draw_bird,
    "boat": draw_boat,
}
"""Things of which there are several kinds, by the name that ``town`` gives them."""


def _rng(kind: int, variant: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((kind, variant))))
