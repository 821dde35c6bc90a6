"""Candidates tile the picture, the score is the paper's formula, and chosen boxes never overlap."""

import numpy as np
import pytest

from train.curate.saliency import BoxOptions, Mask, candidate_boxes, pick_boxes, score_boxes, suppress


def encode(dense):
    flat = dense.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return Mask(dense.shape, ([0] if flat[0] else []) + runs)


def rectangle(rows, columns, x1, y1, x2, y2):
    dense = np.zeros((rows, columns), dtype=bool)
    dense[y1:y2, x1:x2] = True
    return dense


def test_masks_unpack_to_what_was_packed():
    rng = np.random.default_rng(0)
    for dense in (rng.random((7, 5)) > 0.5, np.ones((2, 3), bool), np.zeros((2, 3), bool)):
        assert np.array_equal(encode(dense).dense(), dense)


def test_squares_tile_and_other_shapes_keep_the_area():
    boxes = candidate_boxes((2000, 1000), BoxOptions())
    squares, wide, tall = np.split(boxes, 3)
    assert len(squares) == 10 * 5
    assert np.allclose(squares[:, 2:] - squares[:, :2], 200)
    assert len(np.unique(squares[:, :2], axis=0)) == 50
    sides = wide[:, 2:] - wide[:, :2]
    assert np.allclose(sides[:, 0] / sides[:, 1], 1.5)
    assert np.allclose(sides.prod(1), 200 * 200)
    assert np.allclose((tall[:, 2:] - tall[:, :2])[:, ::-1], sides)
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [2000 + 1e-9, 1000 + 1e-9]).all()


@pytest.mark.parametrize("size", [(3, 3), (10, 5000), (641, 480)])
def test_candidates_stay_inside_of_any_picture(size):
    boxes = candidate_boxes(size, BoxOptions())
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= np.array(size) + 1e-9).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_score_by_hand():
    boxes = np.array([[0, 0, 100, 100], [100, 0, 200, 100]], dtype=float)
    # A mask of 60 x 100 pixels, 40 of 60 columns in the first box; and a speck of 10 x 10 in the second.
    masks = [encode(rectangle(100, 200, 60, 0, 120, 100)), encode(rectangle(100, 200, 150, 40, 160, 50))]
    scores = score_boxes(boxes, masks, (200, 100))
    first = 200 * 100 / 6000
    assert scores[0] == pytest.approx(first * 40 / 60)
    assert scores[1] == pytest.approx(first * 20 / 60 + 200 * 100 / 1600)
    assert score_boxes(boxes, [encode(np.zeros((100, 200), bool))], (200, 100)).tolist() == [0, 0]


def test_score_does_not_depend_on_the_size_of_the_masks():
    boxes = candidate_boxes((800, 400), BoxOptions(cells=4, aspects=(1.0,)))
    large = encode(rectangle(400, 800, 200, 40, 360, 200))
    small = encode(rectangle(100, 200, 50, 10, 90, 50))
    assert np.allclose(score_boxes(boxes, [large], (800, 400)), score_boxes(boxes, [small], (800, 400)))


def test_picks_are_the_best_without_overlap():
    boxes = np.array(
        [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [30, 0, 40, 10], [50, 0, 60, 10]], float
    )
    scores = np.array([2.0, 3.0, 2.5, 1.0, 0.0])
    assert pick_boxes(boxes, scores, 4) == [1, 3]
    assert pick_boxes(boxes, np.array([2.0, 1.0, 2.5, 1.0, 0.0]), 4) == [2, 0, 3]
    assert pick_boxes(boxes, scores, 1) == [1]


def test_random_picks_never_overlap():
    rng = np.random.default_rng(1)
    boxes = candidate_boxes((1000, 700), BoxOptions())
    for _ in range(20):
        taken = boxes[pick_boxes(boxes, rng.random(len(boxes)), 8)]
        assert len(taken) == 8
        for i, one in enumerate(taken):
            for two in taken[:i]:
                assert (np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])).min() < 1e-6


def test_suppression_keeps_the_best_of_each_pile():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 5]], float)
    assert suppress(boxes, np.array([0.5, 0.9, 0.1, 0.8]), 0.7).tolist() == [1, 3, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.7).tolist() == []
