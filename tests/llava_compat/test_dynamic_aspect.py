"""Limits of scales by the sizes of pictures, by hand from the published rule."""

import pytest

from llava_compat.dynamic_aspect import common_scale_limit, scale_limit
from vila_hd import VilaHDError

SCALES_4K = (378, 756, 1512, 3780)


@pytest.mark.parametrize(
    ("size", "limit"),
    [((2646, 10), 1512), ((2647, 10), None), ((10, 2647), None), ((100, 100), 1512), ((4000, 3000), None)],
)
def test_small_pictures_leave_the_largest_scale_out(size, limit):
    assert scale_limit(*size, SCALES_4K) == limit


@pytest.mark.parametrize("scales", [(378, 756, 1512), (1000, 4000)])
def test_small_towers_always_use_all_scales(scales):
    assert scale_limit(10, 10, scales) is None


def test_one_call_has_one_limit():
    assert common_scale_limit([], SCALES_4K) is None
    assert common_scale_limit([(100, 100), (200, 90)], SCALES_4K) == 1512
    with pytest.raises(VilaHDError, match=r"100 x 90, 4000 x 3000 pixels.*separate calls"):
        common_scale_limit([(90, 100), (3000, 4000)], SCALES_4K)
