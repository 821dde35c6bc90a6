import pytest

from eval.conditions import Condition, cross
from vila_hd.errors import VilaHDError


def test_cross_asks_budget_zero_once():
    keys = [condition.key for condition in cross(["0", "16", "auto"], ["prompt", "random"])]
    assert keys == ["low-res", "prompt-16", "random-16", "prompt-auto", "random-auto"]


def test_repeated_values_count_once():
    assert cross(["16", "16"], ["prompt"]) == (Condition(16, "prompt"),)


@pytest.mark.parametrize("budget", ["-1", "many", "1.5", ""])
def test_bad_budgets_are_named(budget):
    with pytest.raises(VilaHDError, match=f"--budget '{budget}'"):
        cross([budget], ["prompt"])


def test_bad_guides_are_named():
    with pytest.raises(VilaHDError, match="--guided-by 'luck'"):
        cross(["1"], ["luck"])
