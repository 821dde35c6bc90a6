"""Selection loss: the recorded cases, hand computations, and the edge cases."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.objectives import selection

GOLDEN = Path(__file__).parents[2] / "golden" / "selection_loss"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_recorded_loss_and_gradients(case):
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    count = len(EXPECTED[case]["per_scale"])
    probs = [tensors[f"selection_probs.{i}"].requires_grad_() for i in range(count)]
    targets = selection.maps_to_targets(tensors["gt_selection_maps"], [tuple(p.shape[1:]) for p in probs])
    bce, dice = selection.selection_loss(probs, targets)
    (bce + dice).backward()
    assert float((bce + dice).detach()) == pytest.approx(EXPECTED[case]["loss"], abs=2e-5)
    assert float(bce.detach()) == pytest.approx(
        sum(b for b, _ in EXPECTED[case]["per_scale"]) / count, abs=2e-5
    )
    for i, prob in enumerate(probs):
        torch.testing.assert_close(prob.grad, tensors[f"grad_selection_probs.{i}"], atol=2e-5, rtol=1e-4)


def test_values_by_hand():
    probs = torch.tensor([[[0.8, 0.4]]])
    target = torch.tensor([[[True, False]]])
    bce, dice = selection.selection_loss([probs], [target])
    assert float(bce) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert float(dice) == pytest.approx(1 - (0.016 + 1e-6) / (0.012 + 0.01 + 1e-6))
    weighted, _ = selection.selection_loss([probs], [target], positive_weight=3.0)
    assert float(weighted) == pytest.approx(-(3 * math.log(0.8) + math.log(0.6)) / 2)


def test_looks_without_box_do_not_count():
    probs = torch.rand(3, 4, 5)
    target = torch.zeros(3, 4, 5, dtype=torch.bool)
    target[0, 1, 2] = target[2, 0, 0] = True
    with_empty = selection.selection_loss([probs], [target])
    without = selection.selection_loss([probs[[0, 2]]], [target[[0, 2]]])
    torch.testing.assert_close(with_empty, without)


def test_no_box_at_all_is_zero_with_a_gradient_path():
    probs = torch.rand(2, 4, 4, requires_grad=True)
    bce, dice = selection.selection_loss([probs], [torch.zeros(2, 4, 4, dtype=torch.bool)])
    (bce + dice).backward()
    assert float(bce) == float(dice) == 0
    assert not probs.grad.any()


def test_mismatches_name_both_sides():
    with pytest.raises(ValueError, match=r"1 maps and 0 targets"):
        selection.selection_loss([torch.rand(1, 2, 2)], [])
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and target \(1, 3, 2\)"):
        selection.selection_loss([torch.rand(1, 2, 2)], [torch.zeros(1, 3, 2)])


def test_hit_rate_counts_best_cells_inside():
    scores = torch.tensor([[[0.1, 0.9]], [[0.9, 0.1]]])
    target = torch.tensor([[[False, True]], [[False, True]]])
    assert float(selection.hit_rate(scores, target)) == 0.5


def test_rank_loss_by_hand():
    probs = torch.tensor([[[0.8, 0.5], [0.2, 0.5]]])  # odds 4, 1, 1/4, 1
    target = torch.tensor([[[True, True], [False, False]]])
    expected = -(math.log(4 / 6.25) + math.log(1 / 6.25)) / 2
    assert float(selection.rank_loss(probs, target)) == pytest.approx(expected, rel=1e-5)


def test_rank_loss_asks_for_order_where_bce_is_content():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, 1, 2] = True
    marked = torch.full((1, 4, 4), 0.9)
    right = torch.full((1, 4, 4), 0.1)
    right[0, 1, 2] = 0.9
    assert float(selection.rank_loss(marked, target)) == pytest.approx(math.log(16), rel=1e-5)
    assert float(selection.rank_loss(right, target)) < 0.5


def test_rank_loss_without_any_box_is_zero_with_a_gradient_path():
    probs = torch.rand(2, 4, 4, requires_grad=True)
    loss = selection.rank_loss(probs, torch.zeros(2, 4, 4, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not probs.grad.any()


def test_rank_loss_skips_looks_without_box():
    probs = torch.rand(2, 4, 4)
    target = torch.zeros(2, 4, 4, dtype=torch.bool)
    target[0, 3, 3] = True
    torch.testing.assert_close(selection.rank_loss(probs, target), selection.rank_loss(probs[:1], target[:1]))
