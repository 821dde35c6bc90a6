"""All ways of the comparison keep the same share of the same picture's tokens."""

import pytest

from eval.answering import Answerer
from eval.claims import recipes
from eval.claims.pruning import FULL, KEEPS, LANGUAGE, PS3, cheaper, ways
from eval.claims.training import CONFIGS
from eval.conditions import Condition
from vila_hd.utils.config import read_yaml


def test_patches_are_those_of_the_models_scales():
    vision = read_yaml(CONFIGS / "model" / "ps3.yaml")["vision"]
    grids = [scale // vision["patch_size"] for scale in vision["ps3_scales"][1:]]
    assert tuple(grid * grid for grid in grids) == recipes.ALL


def test_every_way_has_a_condition_of_its_own():
    found = ways()
    assert len({condition.key for condition in found.values()}) == len(found) == 1 + 4 * len(KEEPS)
    for (who, keep), condition in found.items():
        share = keep if who == PS3 else 1.0
        assert condition.budget == sum(condition.per_scale) == share * sum(recipes.ALL)
        if who not in (PS3, FULL):
            assert condition.pruning.keep == keep


@pytest.mark.parametrize(
    ("chosen", "outcome"),
    [([0.5, 0.6], "holds"), ([1.5, 1.6], "does not hold"), ([0.9, 1.1], "undecided")],
)
def test_the_slowest_and_the_fastest_run_bound_a_ratio(chosen, outcome):
    assert cheaper(0.5, [1.0, 1.0], chosen).outcome == outcome


def test_reading_a_question_has_parts(tiny_folder, choices):
    parts = Answerer(str(tiny_folder)).reading_seconds(choices.example(0), Condition(8, "prompt"))
    assert LANGUAGE in parts
    assert len(parts) > 1
    assert all(seconds > 0 for seconds in parts.values())
