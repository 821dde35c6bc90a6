"""Turns a scene into pixels. Everything but the signs is drawn once per process and then only copied."""

from functools import cache, lru_cache

import numpy as np

from . import scenery
from .backdrop import draw_sky, draw_street
from .houses import draw_house
from .layout import COLOURS, Scene, SceneObject
from .marks import Colour, ImageArray, draw_panel
from .palette import LIGHTS
from .sprites import Sprite
from .town import Place, Slot, Time, house_plan

_CORNER = 10
_FRAME = 10
_SHADOW = 7


def render(scene: Scene, out: ImageArray | None = None) -> ImageArray:
    """Draw the scene.

    Args:
        scene: as ``make_scene`` returns it.
        out: reuse this ``(height, width, 3)`` uint8 array.

    Returns:
        ``(height, width, 3)`` RGB.

    Raises:
        ValueError: ``out`` has another shape or dtype.
    """
    width, height = scene.size
    canvas = np.empty((height, width, 3), np.uint8) if out is None else out
    if canvas.shape != (height, width, 3) or canvas.dtype != np.uint8 or not canvas.flags.c_contiguous:
        raise ValueError(f"out is {canvas.dtype} {canvas.shape}: use contiguous uint8 {(height, width, 3)}")
    for piece in scene.placements:
        if piece.kind == "street":
            strip = _street(scene.time, _above_street(piece.variant), width)
            _roll_into(canvas[piece.y - _above_street(piece.variant) :], strip, piece.x)
        elif piece.kind.startswith("sky"):
            _roll_into(canvas, _sky(scene.time, scene.place, width, piece.variant), piece.x)
        else:
            sprite = _sprite(piece.kind, piece.variant, scene.time)
            sprite.paste(canvas, piece.x, piece.y - sprite.height)
            if piece.kind == "lamp" and LIGHTS[scene.time].glow:
                glow = _sprite("glow", 0, scene.time)
                glow.paste(
                    canvas, piece.x + (sprite.width - glow.width) // 2, piece.y - 172 - glow.height // 2
                )
    for item, slot in zip(scene.objects, scene.slots, strict=True):
        _draw_mount(canvas, item, slot, scene.time)
        _draw_sign(canvas, item)
    return canvas


def _above_street(row: int) -> int:
    """How far the slope above a street reaches up; the furthest row has none."""
    return 0 if row == 0 else 430


@lru_cache(maxsize=12)
def _sky(time: Time, place: Place, width: int, height: int) -> ImageArray:
    return draw_sky(LIGHTS[time], time, place, width, height)


@lru_cache(maxsize=12)
def _street(time: Time, above: int, width: int) -> ImageArray:
    return draw_street(LIGHTS[time], width, above)


@cache
def _sprite(kind: str, variant: int, time: Time) -> Sprite:
    light = LIGHTS[time]
    if kind == "house":
        return draw_house(house_plan(variant), light)
    if kind == "lamp":
        return scenery.draw_lamp(light)
    if kind == "glow":
        return scenery.draw_glow(light)
    if kind == "balloon":
        return scenery.draw_balloon(light)
    return scenery.DRAW[kind](variant, light)


def _roll_into(canvas: ImageArray, strip: ImageArray, shift: int) -> None:
    """Copy a strip whose ends meet into the top of the canvas, moved to the left by ``shift`` pixels."""
    height, width = min(strip.shape[0], canvas.shape[0]), strip.shape[1]
    shift %= width
    canvas[:height, : width - shift] = strip[:height, shift:]
    if shift:
        canvas[:height, width - shift :] = strip[:height, :shift]


def _draw_mount(canvas: ImageArray, item: SceneObject, slot: Slot, time: Time) -> None:
    x1, y1, x2, y2 = item.box
    iron = LIGHTS[time]((84, 84, 92))
    middle = (x1 + x2) // 2
    if slot.mount == "pole":
        canvas[y2 : slot.foot, middle - 4 : middle + 4] = iron
    elif slot.mount == "roof":
        for x in (x1 + 18, x2 - 24):
            canvas[y2 : slot.foot + 4, x : x + 6] = iron
    elif slot.mount == "balloon":
        sprite = _sprite("balloon", 0, time)
        sprite.paste(canvas, middle - sprite.width // 2, y1 - sprite.height - 4)
        for x in (middle - 14, middle + 12):
            canvas[y1 - 18 : y1, x : x + 2] = iron
    if slot.mount in ("wall", "pole"):
        shade = canvas[y1 + _SHADOW : y2 + _SHADOW, x1 + _SHADOW : x2 + _SHADOW]
        shade[:] = (shade >> 2) * 3


def _draw_sign(canvas: ImageArray, item: SceneObject) -> None:
    x1, y1, x2, y2 = item.box
    side = x2 - x1
    plate, ink = COLOURS[item.plate], COLOURS[item.ink]
    target = canvas[y1:y2, x1:x2]
    sign = _plate(plate, ink, side).copy()
    start = (side - item.panel) // 2
    sign[start : start + item.panel, start : start + item.panel] = draw_panel(
        item.tier, item.answer, side=item.panel, plate=plate, ink=ink, phase=item.phase
    )
    rows, columns, cover = _corners(side)
    behind = target[rows, columns]
    target[:] = sign
    target[rows, columns] = (behind + (sign[rows, columns] - behind.astype(np.float32)) * cover).astype(
        np.uint8
    )


@lru_cache(maxsize=256)
def _plate(plate: Colour, ink: Colour, side: int) -> ImageArray:
    """A sign without its panel."""
    sign = np.empty((side, side, 3), np.uint8)
    sign[:] = ink
    sign[_FRAME:-_FRAME, _FRAME:-_FRAME] = plate
    return sign


@cache
def _corners(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that the round corners of a sign leave free or touch, and how much of each the sign covers."""
    steps = np.arange(_CORNER) + 0.5
    distance = np.hypot(_CORNER - steps[:, None], _CORNER - steps[None, :])
    cover = np.clip(_CORNER + 0.5 - distance, 0, 1).astype(np.float32)
    y, x = np.nonzero(cover < 1)
    rows = np.concatenate([y, y, side - 1 - y, side - 1 - y])
    columns = np.concatenate([x, side - 1 - x, x, side - 1 - x])
    return rows, columns, np.tile(cover[y, x], 4)[:, None]
