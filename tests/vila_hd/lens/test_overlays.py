"""Colours keep the order of what they stand for, and outlines run exactly around what was chosen."""

import numpy as np
import pytest
import torch
from PIL import Image

from vila_hd.lens.overlays import (
    draw_heat,
    draw_patches,
    heat_picture,
    heat_table,
    normalized_scores,
    outline_segments,
    pass_colors,
    scale_color,
)


def lightness(colors: np.ndarray) -> np.ndarray:
    """CIE L* of (n, 3) uint8 sRGB colours."""
    share = colors / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_the_heat_colours_get_lighter_with_every_few_scores_and_span_dark_to_light():
    light = lightness(heat_table().astype(float))
    assert heat_table().shape == (256, 3)
    assert (np.diff(light[::4]) > 0).all()
    assert light[0] < 10
    assert light[-1] > 90


def test_scores_are_stretched_and_equal_scores_are_all_low(make_look):
    scores = normalized_scores(make_look((480, 288), scores=torch.tensor([[0.4, 0.5], [0.45, 0.6]])))
    assert scores == pytest.approx(np.array([[0.0, 0.5], [0.25, 1.0]]), abs=1e-6)
    assert (normalized_scores(make_look((480, 288), scores=torch.full((2, 2), 0.7))) == 0).all()


def test_scores_that_are_no_numbers_are_drawn_as_low(make_look):
    scores = torch.tensor([[float("nan"), 1.0], [0.5, 0.0]])
    assert normalized_scores(make_look((480, 288), scores=scores))[0, 0] == 0.0


def test_the_heat_map_puts_every_cell_in_its_place(picture, make_look):
    scores = torch.zeros(4, 4)
    scores[1, 3] = 1.0
    look = make_look(picture.size, scores=scores)
    drawn = np.asarray(draw_heat(picture, look)).astype(int)
    hot = drawn[72:144, 360:480].mean(axis=(0, 1))
    cold = drawn[72:144, 0:360].mean(axis=(0, 1))
    assert hot[0] > cold[0] + 60
    assert heat_picture(look).size == (4, 4)


def test_low_scores_leave_more_of_the_picture_visible(make_look):
    look = make_look((480, 288), scores=torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    alpha = np.asarray(heat_picture(look))[..., 3].flatten().astype(int)
    assert (np.diff(alpha) > 20).all()


def test_the_finest_scale_has_the_same_colour_in_every_look(make_look):
    three = make_look((480, 288), scales=(96, 192, 480))
    assert scale_color(make_look((480, 288)), 1) == scale_color(three, 2)
    assert len({scale_color(three, index) for index in range(3)}) == 3


def test_later_passes_are_darker(make_look):
    look = make_look((480, 288), chosen={(1, 0, 0): 1, (1, 1, 1): 2, (1, 2, 2): 3})
    assert (np.diff(lightness(pass_colors(look, 1)[1:].astype(float))) < -5).all()
    assert tuple(pass_colors(look, 1)[1]) == scale_color(look, 1)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (12, 7)])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_outlines_run_around_every_chosen_cell_and_nowhere_else(grid, density):
    mask = np.random.default_rng(0).random(grid) < density
    cells = {(r, c) for r, c in zip(*np.nonzero(mask), strict=True)}
    borders = set()
    for r, c in cells:
        for edge, near in (
            ((r, c, r, c + 1), (r - 1, c)),
            ((r + 1, c, r + 1, c + 1), (r + 1, c)),
            ((r, c, r + 1, c), (r, c - 1)),
            ((r, c + 1, r + 1, c + 1), (r, c + 1)),
        ):
            if near not in cells:
                borders.add(tuple(map(int, edge)))
    drawn = []
    for x1, y1, x2, y2 in outline_segments(mask, (grid[1] * 10, grid[0] * 10)):
        r1, c1, r2, c2 = (round(v / 10) for v in (y1, x1, y2, x2))
        drawn += [(r1, c, r1, c + 1) for c in range(c1, c2)] + [(r, c1, r + 1, c1) for r in range(r1, r2)]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == borders


def test_only_what_was_chosen_stays_lit(picture, make_look):
    look = make_look(
        picture.size, chosen={(1, row, column): 1 for row in range(4, 8) for column in range(9, 14)}
    )
    drawn = np.asarray(draw_patches(picture, look, scale_indices=[0, 1], dim=0.5)).astype(int)
    before = np.asarray(picture).astype(int)
    assert (drawn[200:, :] == before[200:, :] // 2).all()  # far from any outline
    inside = (slice(70, 122), slice(150, 218))  # the middle of what was chosen
    assert np.abs(drawn[inside] - before[inside]).mean() < 25
    assert drawn[inside].mean() > 0.8 * before[inside].mean()


def test_only_the_scales_asked_for_are_drawn(picture, make_look):
    look = make_look(picture.size, chosen={(0, 0, 0): 1, (1, 17, 29): 1})
    only_fine = np.asarray(draw_patches(picture, look, scale_indices=[1], dim=0.5)).astype(int)
    assert (only_fine[:60, :60] == np.asarray(picture).astype(int)[:60, :60] // 2).all()


def test_nothing_chosen_leaves_the_picture_as_it_is(picture, make_look):
    drawn = draw_patches(picture, make_look(picture.size), scale_indices=[0, 1])
    assert drawn is not picture
    assert (np.asarray(drawn) == np.asarray(picture)).all()


def test_passes_can_be_told_apart(make_look):
    grey = Image.new("RGB", (480, 288), (128, 128, 128))
    chosen = {(1, row, column): 1 + (column >= 10) for row in range(5, 12) for column in range(5, 15)}
    drawn = np.asarray(draw_patches(grey, make_look(grey.size, chosen=chosen), scale_indices=[1])).astype(int)
    first, second = drawn[120, 110], drawn[120, 210]
    assert first.sum() > second.sum() + 20
