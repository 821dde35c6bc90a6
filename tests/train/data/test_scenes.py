"""Rows are pure functions of (config, seed, index), and pictures come back as planned."""

import pytest
import torch

from train.config import ContrastiveConfig, DataConfig
from train.data.scenes import QuestionDataset, RegionDataset, ScenePictures

SMALL = DataConfig(size=(1280, 720), num_objects=3, items_per_picture=2)


def regions(config, *, rows, seed, **contrast):
    values = {"global_share": 0.0, **contrast}
    return RegionDataset(config, rows=rows, seed=seed, contrast=ContrastiveConfig(**values))


def test_order_of_repeated_pictures():
    config = DataConfig(picture_repeats=2, block_size=3, first_picture=100)
    numbers = [ScenePictures(config).number_of(i) for i in range(9)]
    assert numbers == [100, 101, 102, 100, 101, 102, 103, 104, 105]


def test_rows_do_not_depend_on_what_was_read_before():
    fresh, used = regions(SMALL, rows=4, seed=3), regions(SMALL, rows=4, seed=3)
    assert used[0].picture.picture_id != used[2].picture.picture_id
    one, two = fresh[2], used[2]
    assert one.captions == two.captions
    assert torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.picture.pixels, two.picture.pixels)


def test_region_row():
    row = regions(SMALL, rows=1, seed=0, global_share=1.0, swapped_captions=4)[0]
    assert row.picture.pixels.dtype == torch.uint8
    assert row.picture.pixels.shape == (3, 720, 1280)
    assert row.boxes.shape == (2, 4)
    assert row.use_global
    for caption, wrong in zip(row.captions, row.swapped, strict=True):
        assert len(set(wrong)) == 4
        assert caption not in wrong
        assert all(text.split(" with ")[0] == caption.split(" with ")[0] for text in wrong)


def test_pictures_without_regions_are_whole_or_close_ups():
    options = {"global_share": 1.0, "global_instead": True, "swapped_captions": 4}
    plain = regions(SMALL, rows=3, seed=0)
    whole = regions(SMALL, rows=3, seed=0, **options)
    near = regions(SMALL, rows=3, seed=0, close_ups=1.0, **options)
    for index in range(3):
        row, close = whole[index], near[index]
        assert row.use_global
        assert (row.captions, row.swapped, row.global_swapped, len(row.boxes)) == ((), (), (), 0)
        assert torch.equal(row.picture.pixels, plain[index].picture.pixels)
        assert close.picture.global_caption == plain[index].captions[0]
        assert len(set(close.global_swapped) - {close.picture.global_caption}) == 4
        x1, y1, x2, y2 = plain[index].boxes[0].tolist()
        left, top, right, bottom = close.picture.boxes[0].tolist()
        assert (right - left, bottom - top) == (x2 - x1, y2 - y1)
        sign = close.picture.pixels[:, top:bottom, left:right]
        assert torch.equal(sign, plain[index].picture.pixels[:, y1:y2, x1:x2])


def test_repeated_picture_is_rendered_once_and_asked_anew():
    config = DataConfig(size=(1280, 720), num_objects=4, items_per_picture=2, picture_repeats=2, block_size=2)
    dataset = regions(config, rows=4, seed=0)
    first, again = dataset[0], dataset[2]
    assert first.picture is again.picture
    assert len({dataset[i].captions for i in (0, 2)} | {dataset[i].captions for i in (1, 3)}) > 2


@pytest.mark.parametrize("own_choice", [0.0, 1.0])
def test_question_row(own_choice):
    config = DataConfig(size=(1280, 720), num_objects=3, items_per_picture=3, far_share=0.5)
    row = QuestionDataset(config, rows=2, seed=1, own_choice=own_choice)[1]
    assert len(row.questions) == len(row.answers) == len(row.boxes) == 3
    assert set(row.own_choice) == {bool(own_choice)}


def test_turns_of_a_look_ask_about_different_signs():
    config = DataConfig(size=(1280, 720), num_objects=4, items_per_picture=2, turns=3)
    row = QuestionDataset(config, rows=1, seed=1)[0]
    assert row.boxes.shape == (2, 3, 4)
    assert [len(talk) for talk in row.questions] == [len(talk) for talk in row.answers] == [3, 3]
    for boxes in row.boxes.tolist():
        assert len({tuple(box) for box in boxes}) == 3


def test_selection_rows_have_a_box_each():
    row = QuestionDataset(SMALL, rows=1, seed=1, need_box=True)[0]
    assert (row.boxes[..., 2] > row.boxes[..., 0]).all()
