"""Drawing scores and chosen patches: colours, heat maps, outlines."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from ..receipt import Look
from .views import Size, mask_image

Color = tuple[int, int, int]
"""Red, green, blue: 0 to 255."""

SCALE_COLORS: tuple[Color, ...] = ((64, 224, 255), (255, 196, 61), (255, 122, 198), (176, 240, 92))
"""Colours of the scales, the finest first; told apart with any of the common colour blindnesses."""

HALO: Color = (6, 10, 16)
"""Dark line on both sides of an outline, so that it shows on any picture."""


def scale_color(look: Look, scale_index: int) -> Color:
    """The colour of one high scale; the finest has the same one in every look."""
    return SCALE_COLORS[(len(look.scales) - 1 - scale_index) % len(SCALE_COLORS)]


def pass_colors(look: Look, scale_index: int) -> np.ndarray:
    """(1 + passes, 3) uint8: the scale's colour for pass 1, darker with every later one; row 0 is unused."""
    color = np.array(scale_color(look, scale_index), dtype=np.float64)
    later = np.linspace(0.0, 0.65, max(look.num_passes, 1)) if look.num_passes > 1 else np.zeros(1)
    shades = color[None] * (1.0 - later[:, None])
    return np.vstack([np.zeros(3), shades]).round().astype(np.uint8)


@cache
def heat_table() -> np.ndarray:
    """(256, 3) uint8 colours from near black over violet and orange to yellow, in equal steps of lightness.

    Built in OKLCH, a space whose lightness is perceptual: it rises linearly while the hue turns once, so that
    the order of two scores is visible also in print and to colour-blind readers.
    """
    position = np.linspace(0.0, 1.0, 256)
    lightness = 0.16 + 0.79 * position
    hue = np.deg2rad(np.interp(position, [0.0, 0.35, 0.7, 1.0], [285.0, 345.0, 410.0, 465.0]))
    chroma = np.interp(position, [0.0, 0.3, 0.6, 1.0], [0.06, 0.19, 0.19, 0.10])
    for _ in range(160):  # Pull colours that no screen can show towards grey of the same lightness.
        linear = _oklch_to_linear_rgb(lightness, chroma, hue)
        outside = ((linear < 0.0) | (linear > 1.0)).any(axis=1)
        chroma = np.where(outside, chroma * 0.99, chroma)
    linear = np.clip(_oklch_to_linear_rgb(lightness, chroma, hue), 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255.0).round().astype(np.uint8)


def normalized_scores(look: Look) -> np.ndarray:
    """(rows, columns) float64 scores stretched to 0..1; all zero when they are all equal."""
    scores = np.nan_to_num(look.scores.double().numpy())
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def heat_picture(look: Look) -> Image.Image:
    """The scores as an RGBA picture of one pixel per low-res cell; low scores are more transparent."""
    scores = normalized_scores(look)
    color = heat_table()[(scores * 255.0).round().astype(np.uint8)]
    alpha = (255.0 * (0.12 + 0.72 * scores**0.6)).round().astype(np.uint8)
    return Image.fromarray(np.dstack([color, alpha]))


def draw_heat(image: Image.Image, look: Look) -> Image.Image:
    """``image`` in grey under the heat map of the look's scores."""
    grey = image.convert("L").point(lambda value: int(40 + value * 0.7)).convert("RGB")
    heat = heat_picture(look).resize(image.size, Image.Resampling.NEAREST)
    grey.paste(heat.convert("RGB"), mask=heat.getchannel("A"))
    return grey


def draw_patches(
    image: Image.Image, look: Look, *, scale_indices: Sequence[int], dim: float = 0.5
) -> Image.Image:
    """``image`` with the chosen patches of some scales lit, tinted and outlined in their scale's colour.

    Args:
        image: the whole picture in any size.
        look: whose choice is drawn.
        scale_indices: the scales to draw, coarse ones first so that fine ones end on top.
        dim: how much darker what was not chosen becomes, 0 to 1; nothing is dimmed when nothing was chosen.
    """
    size = image.size
    chosen = {index: look.chosen(index).numpy() for index in scale_indices}
    if not any(mask.any() for mask in chosen.values()):
        return image.copy()
    result = image.point(lambda value: int(value * (1.0 - dim)))
    for mask in chosen.values():
        result.paste(image, mask=mask_image(mask, size))
    # One pass needs no more than a hint of colour; several are told apart by their shades.
    tint = 0.12 if look.num_passes == 1 else 0.26
    for index, mask in chosen.items():
        shades = pass_colors(look, index)[look.pass_maps[index].numpy()]
        layer = Image.fromarray(shades).resize(size, Image.Resampling.NEAREST)
        result.paste(Image.blend(result, layer, tint), mask=mask_image(mask, size))
    pen = ImageDraw.Draw(result)
    width = max(1, round(max(size) / 900))
    for index in chosen:
        lines = outline_segments(look.pass_maps[index].numpy(), size)
        for color, extra in ((HALO, 2), (scale_color(look, index), 0)):
            for line in lines:
                pen.line(line, fill=color, width=width + extra)
    return result


def outline_segments(labels: np.ndarray, size: Size) -> list[tuple[float, float, float, float]]:
    """The borders between cells with different labels of a grid that spans ``size`` pixels.

    Args:
        labels: (rows, columns) bool or integers; everything outside counts as 0.
        size: (width, height) of the picture in pixels.

    Returns:
        Straight segments ``(x1, y1, x2, y2)`` in pixels, as long as possible, horizontal ones first.
    """
    cell_w, cell_h = size[0] / labels.shape[1], size[1] / labels.shape[0]
    horizontal = [
        (start * cell_w, line * cell_h, end * cell_w, line * cell_h)
        for line, start, end in _border_runs(labels)
    ]
    vertical = [
        (line * cell_w, start * cell_h, line * cell_w, end * cell_h)
        for line, start, end in _border_runs(labels.T)
    ]
    return horizontal + vertical


def _border_runs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(line, start, end) of each longest run of borders between rows of (rows, columns) labels."""
    padded = np.pad(labels, ((1, 1), (0, 0)))
    border = (padded[1:] != padded[:-1]).astype(np.int8)
    step = np.diff(np.pad(border, ((0, 0), (1, 1))), axis=1)
    lines, starts = np.nonzero(step == 1)
    _, ends = np.nonzero(step == -1)  # Row-major like the starts, so that they pair up.
    return list(zip(lines.tolist(), starts.tolist(), ends.tolist(), strict=True))


def _oklch_to_linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """(n, 3) linear sRGB of OKLCH colours (hue in radians); values beyond 0..1 cannot be shown.

    The two matrices are those of the OKLab definition (B. Ottosson, 2020).
    """
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return np.stack([red, green, blue], axis=1)
