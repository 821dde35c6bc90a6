"""Boxes around what was looked at."""

import torch

from vila_hd.lens.boxes import look_boxes
from vila_hd.receipt import Look


def make_look(fine, coarse=None, *, size=(800, 400), scores=None):
    coarse = torch.zeros(2, 4, dtype=torch.int16) if coarse is None else coarse
    return Look(
        scales=(64, 128),
        low_scale=32,
        patch_size=8,
        scores=torch.zeros(4, 4) if scores is None else scores,
        pass_maps=(coarse, fine),
        processed_size=size,
        original_size=size,
        low_res_tokens=4,
        high_res_tokens=4,
    )


def chosen(rows, columns, *places):
    grid = torch.zeros(rows, columns, dtype=torch.int16)
    for row, column in places:
        grid[row, column] = 1
    return grid


def test_patches_that_touch_share_a_box():
    look = make_look(chosen(4, 8, (0, 0), (0, 1), (1, 2), (3, 7)))
    assert sorted(found.box for found in look_boxes(look)) == [(0, 0, 300, 200), (700, 300, 800, 400)]
    assert {found.scale for found in look_boxes(look)} == {128}


def test_the_best_box_comes_first():
    scores = torch.zeros(4, 4)
    scores[3, 3] = 0.9
    look = make_look(chosen(4, 8, (0, 0), (3, 7)), scores=scores)
    first, second = look_boxes(look)
    assert first.box == (700, 300, 800, 400)
    assert (round(first.score, 3), second.score) == (0.9, 0.0)
    assert look_boxes(look, limit=1) == [first]
    assert first.to_dict() == {"box": [700, 300, 800, 400], "scale": 128, "score": 0.9}


def test_the_finest_scale_that_was_used_counts():
    coarse = chosen(2, 4, (1, 1))
    assert look_boxes(make_look(chosen(4, 8), coarse))[0].box == (200, 200, 400, 400)
    assert look_boxes(make_look(chosen(4, 8, (0, 0)), coarse))[0].scale == 128
    assert look_boxes(make_look(chosen(4, 8))) == []


def test_boxes_are_those_of_the_picture_in_its_frame():
    """A picture of 800 x 400 in the middle of a square of 800."""
    look = make_look(chosen(8, 8, (0, 0), (2, 0), (1, 4), (2, 4)), size=(800, 800))
    boxes = look_boxes(look, size=(800, 400), offset=(0, 200))
    assert sorted(found.box for found in boxes) == [(0, 0, 100, 100), (400, 0, 500, 100)]
