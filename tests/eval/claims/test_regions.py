"""Reading signs without a language model."""

import pytest
import torch

from eval.claims.regions import Reader, Readings, shares, tell_apart


def test_pictures_and_boxes_belong_together(pictures):
    scene, pixels = pictures[0]
    assert (pixels.shape, pixels.dtype) == ((3, 960, 960), torch.uint8)
    boxes = torch.tensor(scene.boxes)
    torch.testing.assert_close(shares(scene) * 960, boxes.double())
    half = shares(scene, 0.5) * 960
    torch.testing.assert_close(half[:, :2] + half[:, 2:], (boxes[:, :2] + boxes[:, 2:]).double())
    torch.testing.assert_close(half[:, 2] - half[:, 0], (boxes[:, 2] - boxes[:, 0]).double() / 2)


def test_every_sign_is_read_once(pictures, towers):
    found = Reader(towers).read(pictures, (16, 80))
    assert [len(scores) for scores in (found.own, found.given, found.recall, found.whole)] == [8, 8, 8, 2]
    assert all(0 <= score <= 1 for score in (*found.recall, *found.per_picture()))
    everything = Reader(towers).read(pictures, (576, 2304))
    assert set(everything.recall) == {1.0}
    assert everything.own == everything.given  # the same patches, whatever comes first


def test_a_score_counts_all_questions_of_a_picture():
    found = Readings(own=(1, 0, 1, 1), given=(), recall=(), whole=(0, 1))
    assert found.per_picture() == [pytest.approx(1 / 3), 1.0]


def test_equal_captions_are_not_told_apart():
    texts = torch.eye(3)[[0, 0, 2]]
    assert tell_apart(torch.eye(3), texts, ["a", "a", "c"]) == [1.0, 1.0, 1.0]
    assert tell_apart(torch.eye(3)[[2, 1, 0]], torch.eye(3), ["a", "b", "c"]) == [0.0, 1.0, 0.0]
