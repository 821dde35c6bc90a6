import pytest

from eval.conditions import Condition, cross
from vila_hd.errors import VilaHDError


def test_cross_asks_budget_zero_once():
    keys = [condition.key for condition in cross(["0", "16", "auto"], ["prompt", "random"])]
    assert keys == ["low-res", "prompt-16", "random-16", "prompt-auto", "random-auto"]


def test_repeated_values_count_once():
    assert cross(["16", "16"], ["prompt"]) == (Condition(16, "prompt"),)


def test_prunings_are_crossed_with_every_budget():
    conditions = cross(["0", "all"], ["saliency"], prunings=["none", "tome:0.5", "fastv:0.25:1"])
    assert [condition.key for condition in conditions] == [
        "low-res",
        "low-res+tome:0.5",
        "low-res+fastv:0.25:1",
        "saliency-all",
        "saliency-all+tome:0.5",
        "saliency-all+fastv:0.25:1",
    ]
    with pytest.raises(VilaHDError, match="pruning 'tome'"):
        cross(["all"], ["saliency"], prunings=["tome"])


@pytest.mark.parametrize("budget", ["-1", "many", "1.5", ""])
def test_bad_budgets_are_named(budget):
    with pytest.raises(VilaHDError, match=f"--budget '{budget}'"):
        cross([budget], ["prompt"])


def test_bad_guides_are_named():
    with pytest.raises(VilaHDError, match="--guided-by 'luck'"):
        cross(["1"], ["luck"])
