"""The Selection Lens as one picture: question, answer, receipt and panels, drawn with Pillow alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..receipt import Look, LookSummary, Receipt, format_share
from .overlays import HALO, Color, draw_heat, draw_patches, heat_table, normalized_scores, scale_color
from .tiles import answer_tiles
from .views import Size, low_res_view, processed_view, reconstruct, view_size

WIDTH = 1920
"""Width of a poster in pixels; its height follows from what there is to show."""

MARGIN = 72
GAP = 28
MAX_HERO_HEIGHT = 1080
MAX_PANEL_HEIGHT = 560

BACKGROUND: Color = (13, 17, 23)
CARD: Color = (24, 30, 39)
TEXT: Color = (236, 240, 245)
MUTED: Color = (146, 157, 172)
ACCENT: Color = (64, 224, 255)


@dataclass(frozen=True)
class Panel:
    """One picture of the poster with its caption."""

    draw: Callable[[Size], Image.Image]
    """Draws the panel in a size given in pixels."""

    title: str
    detail: str
    color: Color | None = None
    """Colour of the square before the title."""


def draw_poster(
    images: Sequence[Image.Image],
    looks: Sequence[Look],
    *,
    question: str,
    answer: str,
    receipt: Receipt | None,
) -> Image.Image:
    """One RGB poster, ``WIDTH`` pixels wide, of all pictures of one answer; empty texts are left out."""
    blocks = [_header(question, answer, looks, receipt)]
    for number, (image, look) in enumerate(zip(images, looks, strict=True), start=1):
        blocks.extend(_picture_rows(image, look, number=number if len(looks) > 1 else None))
    if receipt is not None:
        blocks.append(_receipt_block(receipt))
    height = 2 * MARGIN + sum(block.height for block in blocks) + GAP * (len(blocks) - 1)
    poster = Image.new("RGB", (WIDTH, height), BACKGROUND)
    y = MARGIN
    for block in blocks:
        poster.paste(block, (MARGIN, y))
        y += block.height + GAP
    return poster


def closest_place(look: Look, view: Size) -> tuple[int, int, int, int] | None:
    """The box, in pixels of ``view``, around the best-scored of the chosen patches of the finest used scale.

    Where they lie apart, it is where most of them and of the others are. It has the shape of ``view`` and
    about a tenth of its sides, at least 12 patches; None: nothing chosen.
    """
    used = [index for index in range(len(look.scales)) if bool(look.chosen(index).any())]
    if not used:
        return None
    chosen = look.chosen(used[-1]).numpy()
    rows, columns = chosen.shape
    share = min(1.0, max(0.1, 12 / max(rows, columns)))
    box_rows, box_columns = max(1, round(rows * share)), max(1, round(columns * share))
    scores = _spread(normalized_scores(look), chosen.shape)
    best = chosen & (scores == scores[chosen].max())
    weight = chosen * (0.2 + scores) + best * chosen.size
    sums = _box_sum(weight, box_rows, box_columns)
    places = np.argwhere(best)
    away = np.abs(places - np.unravel_index(int(sums.argmax()), sums.shape))
    row, column = places[(away <= (box_rows / 2, box_columns / 2)).all(axis=1)].mean(axis=0)
    width, height = max(1, round(view[0] * share)), max(1, round(view[1] * share))
    x = round((column + 0.5) / columns * view[0] - width / 2)
    y = round((row + 0.5) / rows * view[1] - height / 2)
    x, y = min(max(x, 0), view[0] - width), min(max(y, 0), view[1] - height)
    return x, y, x + width, y + height


def _spread(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A (rows, columns) array on a finer or coarser grid of the same picture, by nearest cells."""
    rows = np.arange(shape[0]) * values.shape[0] // shape[0]
    columns = np.arange(shape[1]) * values.shape[1] // shape[1]
    return values[np.ix_(rows, columns)]


def _box_sum(values: np.ndarray, box_rows: int, box_columns: int) -> np.ndarray:
    """Sum over the box centred on every cell of a (rows, columns) array; outside counts as zero."""
    top, left = box_rows // 2, box_columns // 2
    padded = np.pad(values, ((top + 1, box_rows - 1 - top), (left + 1, box_columns - 1 - left)))
    total = padded.cumsum(axis=0).cumsum(axis=1)
    rows, columns = values.shape
    return (
        total[box_rows : box_rows + rows, box_columns : box_columns + columns]
        - total[:rows, box_columns : box_columns + columns]
        - total[box_rows : box_rows + rows, :columns]
        + total[:rows, :columns]
    )


def _picture_rows(image: Image.Image, look: Look, *, number: int | None) -> list[Image.Image]:
    """The rows of panels of one picture: a large one on top, the others below in rows that fill the width."""
    panels = _panels(image, look, number=number)
    aspect = look.original_size[0] / look.original_size[1]
    width = WIDTH - 2 * MARGIN

    def panels_per_row(least: int, max_height: int) -> int:
        count = least
        while count < len(panels) and (width - (count - 1) * GAP) / count / aspect > max_height:
            count += 1
        return count

    first = panels_per_row(1, MAX_HERO_HEIGHT)
    rows, rest = [panels[:first]], panels[first:]
    if rest:
        num_rows = -(-len(rest) // panels_per_row(3, MAX_PANEL_HEIGHT))
        ends = [round(index * len(rest) / num_rows) for index in range(num_rows + 1)]
        rows += [rest[start:end] for start, end in pairwise(ends)]
    return [_row(row, width, aspect) for row in rows]


def _panels(image: Image.Image, look: Look, *, number: int | None) -> list[Panel]:
    """All panels of one picture, the most important one first."""
    view = view_size(look)
    processed = processed_view(image, look)
    seen = reconstruct(processed, look, view)
    place = closest_place(look, view)
    summary = look.summary()
    scales = range(len(look.scales))
    middle = _reduced(image, _fit(view, WIDTH))

    def hero(size: Size) -> Image.Image:
        drawn = draw_patches(_reduced(middle, size), look, scale_indices=scales)
        if place is not None:
            _draw_frame(drawn, place, view)
        return drawn

    def heat(size: Size) -> Image.Image:
        return draw_heat(_reduced(middle, size), look)

    def one_scale(index: int) -> Panel:
        chosen, total = summary.chosen[index]
        return Panel(
            lambda size: draw_patches(heat(size), look, scale_indices=[index], dim=0.2),
            f"{look.scales[index]:,} px",
            f"{chosen:,} of {total:,} patches",
            scale_color(look, index),
        )

    low, high = float(look.scores.min()), float(look.scores.max())
    rows, columns = look.scores.shape
    span = f"{low:.2f} to {high:.2f}" if low < high else "all equal"
    used = [f"{look.scales[index]:,}" for index in scales if summary.chosen[index][0]]
    panels = [
        Panel(hero, "Where it looked" + (f" in picture {number}" if number else ""), _hero_detail(summary)),
        Panel(heat, "Scores", f"{rows} x {columns} cells, {span}"),
        *[one_scale(index) for index in scales],
        Panel(lambda size: _reduced(seen, size), "What it saw", f"{' + '.join(['low-res', *used])} px"),
    ]
    if place is not None:
        low_res = low_res_view(processed, look)
        across, down = low_res.width / view[0], low_res.width / view[1]
        box = (place[0] * across, place[1] * down, place[2] * across, place[3] * down)
        panels.append(
            Panel(
                lambda size: low_res.resize(size, Image.Resampling.BICUBIC, box=box),
                "Close up, low-res only",
                "in the white frame",
            )
        )
        panels.append(
            Panel(
                lambda size: _enlarged(seen.crop(place), size), "Close up, what it saw", "in the white frame"
            )
        )
    return panels


def _hero_detail(summary: LookSummary) -> str:
    """The caption under the large panel."""
    if not summary.num_chosen:
        return "nothing chosen: the low-res view only"
    passes = "" if summary.num_passes == 1 else f", {summary.num_passes} passes (later ones darker)"
    return f"{summary.num_chosen:,} patches, {format_share(summary.coverage)} of the picture{passes}"


def _row(panels: Sequence[Panel], width: int, aspect: float) -> Image.Image:
    """Panels side by side, each as wide as fits, with captions below them."""
    panel_width = (width - (len(panels) - 1) * GAP) // len(panels)
    panel_height = max(1, round(panel_width / aspect))
    if panel_height > MAX_HERO_HEIGHT:
        panel_width, panel_height = max(1, round(MAX_HERO_HEIGHT * aspect)), MAX_HERO_HEIGHT
    wide = width if len(panels) == 1 else panel_width
    one_line = all(_caption_width(panel) <= wide for panel in panels)
    block = Image.new("RGB", (width, panel_height + (54 if one_line else 82)), BACKGROUND)
    mask = _rounded_mask((panel_width, panel_height), 12)
    for index, panel in enumerate(panels):
        x = index * (panel_width + GAP)
        block.paste(panel.draw((panel_width, panel_height)), (x, 0), mask)
        _draw_caption(ImageDraw.Draw(block), panel, (x, panel_height + 34), wide, one_line=one_line)
    return block


def _caption_width(panel: Panel) -> float:
    """Pixels that a panel's caption takes on one line."""
    mark = 26 if panel.color is not None else 0
    return mark + _font(23).getlength(panel.title) + 14 + _font(20).getlength(panel.detail)


def _draw_caption(
    pen: ImageDraw.ImageDraw, panel: Panel, place: tuple[int, int], width: int, *, one_line: bool
) -> None:
    """Draw title and detail from ``place``, the left end of the first line's baseline."""
    x, y = place
    left = x
    if panel.color is not None:
        pen.rounded_rectangle((x, y - 17, x + 16, y - 1), 4, fill=panel.color)
        left += 26
    pen.text((left, y), panel.title, font=_font(23), fill=TEXT, anchor="ls")
    if one_line:
        left += round(pen.textlength(panel.title, font=_font(23))) + 14
    else:
        left, y = x, y + 28
    detail = _shorten(panel.detail, _font(20), x + width - left)
    pen.text((left, y), detail, font=_font(20), fill=MUTED, anchor="ls")


def _header(question: str, answer: str, looks: Sequence[Look], receipt: Receipt | None) -> Image.Image:
    """Question, answer and the numbers that matter most."""
    width = WIDTH - 2 * MARGIN
    question_lines = _wrap(question, _font(50, question), width)[:4]
    answer_lines = _wrap(answer, _font(44, answer), width - 40)[:6]
    tiles = answer_tiles(looks, receipt)
    height = 40 + 66 * len(question_lines) + (60 * len(answer_lines) + 24 if answer_lines else 0) + 138
    block = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(block)
    pen.text((0, 22), "S E L E C T I O N   L E N S", font=_font(20), fill=MUTED, anchor="ls")
    y = 40
    for line in question_lines:
        pen.text((0, y + 50), line, font=_font(50, question), fill=TEXT, anchor="ls")
        y += 66
    if answer_lines:
        y += 12
        pen.rounded_rectangle((0, y + 6, 8, y + 60 * len(answer_lines) - 4), 4, fill=ACCENT)
        for line in answer_lines:
            pen.text((36, y + 46), line, font=_font(44, answer), fill=ACCENT, anchor="ls")
            y += 60
    y += 26
    x = 0
    for value, label in tiles:
        tile_width = (
            round(max(pen.textlength(value, font=_font(36)), pen.textlength(label, font=_font(19)))) + 48
        )
        pen.rounded_rectangle((x, y, x + tile_width, y + 98), 14, fill=CARD)
        pen.text((x + 24, y + 50), value, font=_font(36), fill=TEXT, anchor="ls")
        pen.text((x + 24, y + 80), label, font=_font(19), fill=MUTED, anchor="ls")
        x += tile_width + 18
    return block


def _receipt_block(receipt: Receipt) -> Image.Image:
    """The receipt's lines in two columns, and the colours of the scores."""
    lines = [line.split("  ", 1) for line in receipt.lines()]
    block = Image.new("RGB", (WIDTH - 2 * MARGIN, 32 * len(lines) + 56), CARD)
    pen = ImageDraw.Draw(block)
    left = 28 + max(round(pen.textlength(name, font=_font(20))) for name, _ in lines) + 28
    for index, (name, text) in enumerate(lines):
        y = 28 + 32 * index + 22
        pen.text((28, y), name, font=_font(20), fill=MUTED, anchor="ls")
        pen.text((left, y), text.strip(), font=_font(20), fill=TEXT, anchor="ls")
    bar = Image.fromarray(np.ascontiguousarray(heat_table()[None])).resize((200, 12))
    right, y = block.width - 28, block.height - 28
    pen.text((right, y), "high score", font=_font(18), fill=MUTED, anchor="rs")
    right -= round(pen.textlength("high score", font=_font(18))) + 14 + bar.width
    block.paste(bar, (right, y - bar.height), _rounded_mask(bar.size, 6))
    pen.text((right - 14, y), "low score", font=_font(18), fill=MUTED, anchor="rs")
    rounded = Image.new("RGB", block.size, BACKGROUND)
    rounded.paste(block, mask=_rounded_mask(block.size, 14))
    return rounded


def _draw_frame(image: Image.Image, box: tuple[int, int, int, int], view: Size) -> None:
    """Draw the white corners of ``box`` (in pixels of ``view``) on the whole picture ``image``."""
    scale_x, scale_y = image.width / view[0], image.height / view[1]
    left, top, right, bottom = box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y
    arm = max(6.0, 0.22 * min(right - left, bottom - top))
    pen = ImageDraw.Draw(image)
    for color, width in ((HALO, 7), ((255, 255, 255), 3)):
        for x, dx in ((left, arm), (right, -arm)):
            for y, dy in ((top, arm), (bottom, -arm)):
                pen.line([(x + dx, y), (x, y), (x, y + dy)], fill=color, width=width, joint="curve")


def _reduced(image: Image.Image, size: Size) -> Image.Image:
    """``image`` in ``size`` pixels; quick for much smaller sizes."""
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _enlarged(image: Image.Image, size: Size) -> Image.Image:
    """``image`` in ``size`` pixels; enlarged pixels stay visible: smoothing would hide their size."""
    return image.resize(size, Image.Resampling.NEAREST if image.width < size[0] else Image.Resampling.BICUBIC)


def _fit(size: Size, longest: int) -> Size:
    """``size`` reduced so that no side is longer than ``longest``."""
    share = min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _rounded_mask(size: Size, radius: int) -> Image.Image:
    """A soft-edged mask of a rectangle with round corners."""
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 2 - 1, size[1] * 2 - 1), radius * 2, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """``text`` in lines no wider than ``width`` pixels; words longer than a line are cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            while font.getlength(line) > width:
                end = next(
                    n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width
                )
                lines.append(line[:end])
                line = line[end:]
        if line:
            lines.append(line)
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """``text``, cut with dots where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    end = len(text)
    while end and font.getlength(text[:end].rstrip() + "...") > width:
        end -= 1
    return text[:end].rstrip() + "..." if end else ""


def _font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Pillow's own font in ``size`` pixels, or one of the system's where that has no letters for ``text``."""
    return _load_font(size, _needs_wide_font(text))


@cache
def _load_font(size: int, wide: bool) -> ImageFont.FreeTypeFont:
    """A font by size; ``wide`` asks for many scripts and falls back to Pillow's own font."""
    names = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf") if wide else ()
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # Not installed here.
            continue
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _needs_wide_font(text: str) -> bool:
    """Whether ``text`` has letters beyond Latin, which is all that Pillow's own font draws."""
    return any(ord(letter) > 0x24F for letter in text)
