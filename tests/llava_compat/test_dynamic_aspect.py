"""Scales by the sizes of pictures, by hand from the published rule."""

import pytest

from llava_compat.dynamic_aspect import favoured_scales, plan_by_sizes
from llava_compat.look_settings import LookSettings
from vila_hd import VilaHDError

SCALES_4K = (378, 756, 1512, 3780)
SQUARE = ((54, 54), (108, 108), (270, 270))
SPLIT = (85, 341, 2134)
SMALL, LARGE = (700, 900), (3000, 4000)


def plans(*sizes, **settings):
    return plan_by_sizes(
        sizes,
        [SQUARE] * len(sizes),
        SCALES_4K,
        settings=LookSettings(**settings),
        split=SPLIT,
        rounding="remainder",
    )


@pytest.mark.parametrize(
    ("size", "count"),
    [((2646, 10), 2), ((2647, 10), None), ((10, 2647), None), ((100, 100), 2), (LARGE, None), (None, None)],
)
def test_small_pictures_leave_the_largest_scale_out(size, count):
    assert favoured_scales(size, SCALES_4K) == count


@pytest.mark.parametrize("scales", [(378, 756, 1512), (1000, 4000)])
def test_small_towers_always_use_all_scales(scales):
    assert favoured_scales((10, 10), scales) is None


@pytest.mark.parametrize("size", [(1,), (1, 2, 3), (0, 5), 7, ("a", 1), ("a", "b")])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(VilaHDError, match="use \\(height, width\\) in pixels, or None"):
        favoured_scales(size, SCALES_4K)


def test_sizes_that_change_nothing_make_no_plan():
    assert plans(LARGE, None) is None
    assert plans(SMALL, num_look_close=0) is None
    assert plans(SMALL, num_token_look_close=0) is None


def test_the_published_arithmetic_leaves_one_patch_in_each_pass():
    assert plans(SMALL, num_look_close=1) == [((510, 2049, 1),)]
    assert plans(SMALL, num_look_close=None) == [((510, 2049, 1),)]
    assert plans(SMALL, num_token_look_close=2560) == [((510, 2049, 1),)]


def test_pictures_of_one_call_may_differ():
    small, large, unknown = plans(SMALL, LARGE, None, num_look_close=7)
    # 14580 patches of the first two scales take six passes, as many as there are.
    assert len(small) == 6
    assert len(large) == len(unknown) == 7
    assert set(large) == {SPLIT}
    everything = plans(SMALL, LARGE, num_look_close="all")
    assert [sum(step[-1] for step in plan) for plan in everything][1] == 270 * 270


def test_a_split_of_the_caller_is_used():
    assert plans(LARGE, SMALL, num_look_close=1, max_select_num_each_scale=(10, 20, 30)) == [
        ((10, 20, 30),),
        ((20, 40, 0),),
    ]
