import pytest

from eval.speed.presets import PRESETS, get_preset
from vila_hd.errors import VilaHDError


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_numbers_of_a_preset_agree_with_its_configuration(preset):
    assert preset.config["ps3_scales"] == list(preset.scales)
    assert sum(preset.config["max_select_num_each_scale"]) == preset.pass_budget
    assert len(preset.config["max_select_num_each_scale"]) == len(preset.scales) - 1
    assert preset.config["hidden_size"] == preset.width
    assert max(preset.config["select_based_on_layer"]) == preset.depth - 1
    if preset.lower is not None:
        assert get_preset(preset.lower).pass_budget == preset.pass_budget


def test_flops_grow_by_the_same_amount_per_look():
    preset = get_preset("so400m-4k")
    first, second, third = (preset.flops(looks) for looks in (1, 2, 3))
    assert second - first == third - second > first / 2


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(VilaHDError, match=r"'big' is unknown.*so400m-4k"):
        get_preset("big")
