"""Geometry between batches and models."""

import torch

from train import box_losses, steps
from train.config import LookConfig, SelectionConfig
from vila_hd.testing import tiny_vision_config


def test_boxes_become_shares_of_their_picture():
    boxes = box_losses.normalised_boxes(torch.tensor([[10, 20, 30, 40]]), torch.tensor([[100, 200]]))
    torch.testing.assert_close(boxes, torch.tensor([[0.1, 0.1, 0.3, 0.2]], dtype=torch.float64))


def test_shrunk_boxes_keep_their_centre():
    small = box_losses.shrink_boxes(torch.tensor([[0.2, 0.4, 0.6, 0.5]]), 0.5)
    torch.testing.assert_close(small, torch.tensor([[0.3, 0.425, 0.5, 0.475]]))


def test_boxes_shrunk_to_nothing_are_no_regions():
    nothing = box_losses.boxes_as_regions(
        box_losses.shrink_boxes(torch.rand(50, 4, dtype=torch.float64), 0.0)
    )
    assert not nothing.on_grid(8, 8).any()


def test_box_without_area_is_no_region():
    regions = box_losses.boxes_as_regions(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]))
    assert regions.on_grid(2, 2).flatten(1).sum(1).tolist() == [0, 1]


def test_first_look_of_each_picture():
    assert box_losses.first_look_of_pictures(torch.tensor([1, 0, 0, 1, 2])).tolist() == [1, 0, 4]


def test_distractors_are_the_next_looks_of_the_same_picture():
    boxes, picture = torch.arange(5)[:, None].repeat(1, 4), torch.tensor([0, 1, 0, 0, 2])
    for count, expected in ((0, [{0}, {1}, {2}, {3}, {4}]), (1, [{0, 2}, {1}, {2, 3}, {3, 0}, {4}])):
        chosen, look = box_losses.with_distractors(boxes, picture, count)
        assert [set(chosen[look == i, 0].tolist()) for i in range(5)] == expected
        assert len(chosen) == sum(map(len, expected))
    assert len(box_losses.with_distractors(boxes, picture, 9)[0]) == 3 * 3 + 1 + 1


def test_selection_parts_agree_between_resolutions_on_whole_cells():
    scores = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    regions = box_losses.boxes_as_regions(torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.25, 0.5, 0.5, 1.0]]))
    cells = box_losses.selection_parts(scores, regions, [(8, 8)], SelectionConfig(dice_weight=0.0))
    scales = box_losses.selection_parts(
        scores, regions, [(8, 8)], SelectionConfig(dice_weight=0.0, resolution="scales")
    )
    torch.testing.assert_close(cells[0], scales[0])


def test_bottom_up_targets():
    batch = {
        "look_index": torch.tensor([0, 0, 1]),
        "picture_sizes": torch.tensor([[100, 100], [100, 100]]),
        "all_boxes": [torch.tensor([[0, 0, 50, 50], [50, 50, 100, 100]]), torch.tensor([[0, 50, 50, 100]])],
    }
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 1.0]])
    every = box_losses.bottom_up_targets(batch, boxes, SelectionConfig()).on_grid(2, 2).flatten(1).tolist()
    assert every == [[True, False, False, True], [False, False, True, False]]
    sampled = SelectionConfig(bottom_up_target="sampled_boxes")
    own = box_losses.bottom_up_targets(batch, boxes, sampled).on_grid(2, 2).flatten(1).tolist()
    assert own == [[True, False, False, False], [False, False, True, False]]


def test_training_budget_is_its_own():
    vision = tiny_vision_config()
    assert steps.look_options(LookConfig(per_scale=(4, 28)), vision).budget == 32
    assert steps.look_options(LookConfig(passes=2), vision).budget == 2 * vision.max_select_num
