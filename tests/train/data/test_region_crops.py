"""Crops keep the sampled boxes, whatever the shapes are."""

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.region_crops import Crop, choose_crop, cut_out, move_boxes, prepared_size


@pytest.mark.parametrize("size", [(3000, 300), (300, 3000), (1920, 1080), (500, 500), (7, 900), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_every_sampled_box_is_inside(size, count):
    rng = np.random.default_rng(0)
    limits = np.array(size * 2, dtype=float)
    for _ in range(100):
        corners = rng.uniform(0, 1, (count, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1) * limits
        crop = choose_crop(size, boxes, rng, area=(0.5, 1.0), aspect=1.3)
        assert 0 <= crop.x1 < crop.x2 <= size[0]
        assert 0 <= crop.y1 < crop.y2 <= size[1]
        assert (boxes[:, :2] >= crop[:2]).all()
        assert (boxes[:, 2:] <= crop[2:]).all()


def test_area_is_kept_for_wide_pictures():
    rng = np.random.default_rng(1)
    crops = [choose_crop((4000, 800), np.zeros((0, 4)), rng, area=(0.9, 1.0), aspect=1.3) for _ in range(300)]
    areas = np.array([(c.x2 - c.x1) * (c.y2 - c.y1) / (4000 * 800) for c in crops])
    assert areas.min() > 0.895
    assert areas.std() > 0.02
    assert len({crop.x1 for crop in crops}) > 50


def test_boxes_follow_the_picture():
    boxes = np.array([[100, 100, 300, 200], [0, 0, 90, 90], [0.0, 0.0, 150.0, 100.0], [380, 280, 400, 300]])
    crop = Crop(50, 50, 400, 300)
    moved, left = move_boxes(boxes, crop, (0.5, 2.0), min_visible=0.3)
    assert left.tolist() == [0, 2, 3]
    assert moved.tolist() == [[25, 100, 125, 300], [0, 0, 50, 100], [165, 460, 175, 500]]


@pytest.mark.parametrize("box", [[999.9, 0, 1000, 10], [0, 0, 0.2, 0.2], [500.01, 3, 500.02, 4]])
def test_tiny_boxes_keep_an_area(box):
    moved, _ = move_boxes(np.array([box]), Crop(0, 0, 1000, 1000), (0.01, 0.01), min_visible=0.0)
    assert (moved[:, 2:] > moved[:, :2]).all()
    assert moved.min() >= 0
    assert moved.max() <= 10


@pytest.mark.parametrize(
    ("resize", "crop", "expected"),
    [
        ("squash", Crop(0, 0, 400, 200), (400, 400)),
        ("squash", Crop(0, 0, 4000, 200), (1000, 1000)),
        ("fit", Crop(0, 0, 400, 200), (400, 200)),
        ("fit", Crop(0, 0, 4000, 200), (1000, 50)),
        ("fit", Crop(0, 0, 4000, 1), (1000, 1)),
    ],
)
def test_pictures_are_never_enlarged_beyond_their_longest_side(resize, crop, expected):
    assert prepared_size(crop, 1000, resize) == expected


def test_cut_out_shows_the_crop():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:50] = 255
    picture = Image.fromarray(pixels)
    exact = cut_out(picture, Crop(30, 10, 50, 20), (20, 10))
    assert exact.dtype == torch.uint8
    assert exact.shape == (3, 10, 20)
    assert bool((exact == 255).all())
    stretched = cut_out(picture, Crop(30, 10, 50, 20), (40, 40))
    assert bool((stretched[:, 8:-8, 8:-8] == 255).all())  # its edges are blended with what is around
