"""Budgets of passes: exact, complete, and equal to the published arithmetic where that is meant."""

import pytest

from vila_hd.errors import VilaHDError
from vila_hd.ps3.plans import default_budget_split, plan_passes, plan_passes_published

SIZES_1K5 = (54 * 54, 108 * 108)
SIZES_4K = (54 * 54, 108 * 108, 270 * 270)


@pytest.mark.parametrize(
    ("scales", "rounding", "expected"),
    [
        ((378, 756, 1512), "floor", (512, 2048)),
        ((378, 756, 1512), "remainder", (512, 2048)),
        ((378, 756, 1512, 3780), "floor", (85, 341, 2133)),
        ((378, 756, 1512, 3780), "remainder", (85, 341, 2134)),
        ((384, 768, 1536, 3840), "remainder", (85, 341, 2134)),
    ],
)
def test_default_split_is_the_published_one(scales, rounding, expected):
    assert default_budget_split(scales, 2560, rounding=rounding) == expected


@pytest.mark.parametrize("budget", [0, 1, 7, 79, 80, 81, 250, 10**6])
@pytest.mark.parametrize("num_scales", [None, 1, 2])
def test_budget_is_exact_and_never_more_than_there_is(budget, num_scales):
    sizes = (16, 64, 400)
    plan = plan_passes(sizes, (10, 20, 50), budget=budget, num_scales=num_scales)
    available = sum(sizes[:num_scales])
    assert sum(map(sum, plan)) == min(budget, available)
    assert all(sum(taken[i] for taken in plan) <= size for i, size in enumerate(sizes))
    assert all(sum(taken) == 80 for taken in plan[:-1])


def test_scales_beyond_the_limit_get_nothing():
    plan = plan_passes((16, 64, 400), (10, 20, 50), budget=30, num_scales=2)
    assert [taken[2] for taken in plan] == [0]


@pytest.mark.parametrize("split", [(1, 19), (60, 20), (4, 76), (0, 5)])
def test_all_takes_every_patch_whatever_the_split(split):
    plan = plan_passes((16, 64), split, budget="all")
    assert [sum(scale) for scale in zip(*plan, strict=True)] == [16, 64]


def test_auto_is_one_pass():
    assert plan_passes(SIZES_4K, (85, 341, 2134), budget="auto") == ((85, 341, 2134),)


@pytest.mark.parametrize(
    ("sizes", "split", "passes"), [(SIZES_1K5, (512, 2048), 6), (SIZES_4K, (85, 341, 2134), 35)]
)
def test_published_all_covers_the_released_models(sizes, split, passes):
    plan = plan_passes_published(sizes, split, num_passes="all")
    assert len(plan) == passes
    assert [sum(scale) for scale in zip(*plan, strict=True)] == list(sizes)
    assert plan == plan_passes(sizes, split, budget="all")


def test_published_all_loses_what_the_last_scale_cannot_use():
    plan = plan_passes_published((16, 64), (1, 19), num_passes="all")
    assert sum(map(sum, plan)) == 68


def test_published_token_budget_applies_to_the_last_pass():
    plan = plan_passes_published((100, 400), (16, 64), num_patches=100)
    assert plan == ((16, 64), (4, 16))


@pytest.mark.parametrize(("rounding", "last"), [("floor", ()), ("remainder", ((0, 0, 1),))])
def test_rounding_decides_about_a_pass_of_one_patch(rounding, last):
    split = (3, 12, 80)
    plan = plan_passes_published((36, 144, 900), split, num_patches=96, rounding=rounding)
    assert plan == (split, *last)


def test_favouring_the_first_scales_keeps_the_published_arithmetic():
    plan = plan_passes_published(SIZES_4K, (85, 341, 2134), num_passes=1, first_scales=2)
    assert plan == ((510, 2049, 1),)
    assert plan_passes_published((64, 256), (16, 64), num_passes=1, first_scales=1) == ((64, 16),)


def test_favouring_refills_a_small_budget():
    plan = plan_passes_published((100, 400), (4, 16), num_patches=10, first_scales=2)
    assert sum(map(sum, plan)) == 20


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "give a positive number"),
        ({"num_passes": 3, "num_patches": 100}, "contradict"),
        ({"num_passes": 1, "first_scales": 1}, "-1 patches"),
        ({"num_patches": 7, "first_scales": 1}, "leave nothing"),
    ],
)
def test_impossible_choices_are_named(choice, message):
    with pytest.raises(VilaHDError, match=message):
        plan_passes_published((36, 144, 900), (3, 12, 80), rounding="floor", **choice)
