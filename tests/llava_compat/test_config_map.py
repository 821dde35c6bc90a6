"""Keys of the published configs, one by one."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_compat.config_map import (
    read_budget,
    read_encoder,
    read_resize_mode,
    read_vision_config,
    require_sane,
    write_config,
)
from llava_compat.llm_config import write_llm_config
from llava_compat.writing import SO400M, SO400M_NAME, find_tower_gaps, trunk_name
from vila_hd import VilaHDError
from vila_hd.ps3 import PS3ImageProcessor, PS3VisionConfig
from vila_hd.testing import tiny_config, tiny_text_config, tiny_vision_config

TOWER = PS3VisionConfig(model_name="vit_so400m_patch14_siglip_384", max_select_num=2560)
ALL_PATCHES = 54**2 + 108**2


@pytest.mark.parametrize(
    ("keys", "budget"),
    [
        ({}, None),
        ({"num_look_close": 1}, None),
        ({"num_look_close": 6}, 6 * 2560),
        ({"num_look_close": 0}, 0),
        ({"num_look_close": "all"}, ALL_PATCHES),
        ({"num_look_close": 6, "num_token_look_close": 100}, 100),
        ({"num_look_close": 0, "num_token_look_close": 100}, 100),
        ({"num_token_look_close": 0}, 0),
        ({"num_token_look_close": "all"}, ALL_PATCHES),
        ({"num_look_close": None, "num_token_look_close": None}, None),
    ],
)
def test_budget(keys, budget):
    assert read_budget(keys, TOWER) == budget


@pytest.mark.parametrize("value", [-1, True, 2.0, "6", [1]])
@pytest.mark.parametrize("key", ["num_look_close", "num_token_look_close"])
def test_budgets_that_are_no_counts_are_refused(key, value):
    with pytest.raises(VilaHDError, match=key):
        read_budget({key: value}, TOWER)


@settings(deadline=None)
@given(st.none() | st.integers(0, 10**5))
def test_every_budget_is_written_so_that_it_is_read_again(budget):
    config = tiny_config(default_budget=budget)
    top = write_config(config, "\n", "squash", "bicubic")
    again = read_budget(top, config.vision_config)
    # One full pass has two spellings.
    assert again == budget or (again is None and budget == config.vision_config.max_select_num)


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (None, "\n"),
        ({}, "\n"),
        ({"_target_": "llava.model.encoders.BasicImageEncoder"}, "\n"),
        ({"end_tokens": "</image>"}, "</image>"),
        ({"end_tokens": None}, ""),
        ({"start_tokens": None}, "\n"),
    ],
)
def test_text_after_pictures(value, end):
    assert read_encoder({"image_encoder": value}) == end
    assert read_encoder({"image_encoder": json.dumps(value)}) == end


@pytest.mark.parametrize("end", ["\n", "", "</image>"])
@pytest.mark.parametrize("mode", ["squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pictures_are_written_so_that_they_are_read_again(end, mode, interpolation):
    top = write_config(tiny_config(), end, mode, interpolation)
    assert read_encoder(top) == end
    assert read_resize_mode(top) == mode
    assert (top["image_aspect_ratio"] == "default") == (mode == "squash" and interpolation == "bilinear")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("resize", "squash"), ("pad", "pad"), ("default", "squash"), ("anything", "squash"), (None, "squash")],
)
def test_aspect_modes(mode, expected):
    assert read_resize_mode({"image_aspect_ratio": mode}) == expected


def test_kept_keys_are_written_back():
    config = tiny_config(published={"fps": 2.0, "num_video_frames": 64, "num_look_close": 6, "note": "x"})
    top = write_config(config, "\n", "squash", "bicubic")
    assert {key: top[key] for key in ("fps", "num_video_frames", "note")} == {
        "fps": 2.0,
        "num_video_frames": 64,
        "note": "x",
    }
    # The model's own budget wins over what its config once said.
    assert top["num_look_close"] == 1


@pytest.mark.parametrize(
    "value", [10**12, -(10**12), 1e300, float("inf"), float("nan"), [1, [2**31]], {"a": 2**40}]
)
def test_absurd_numbers_are_named(value):
    with pytest.raises(VilaHDError, match=r"config\.json\.size"):
        require_sane({"size": value}, "config.json")


def test_usual_numbers_pass():
    require_sane({"a": [1, 2.5, True, None, "x"], "model_max_length": 10**30, "b": {"c": -1}}, "config.json")


PIXELS = PS3ImageProcessor(128, 0.5, 0.25, do_normalize=False)


def read_tower(**values):
    """A tower of 40 tensors with sides up to 4304."""
    shapes = {f"vision_model.t{i}": (4304, 1152) for i in range(40)}
    return read_vision_config(values, shapes, PIXELS, budget_rounding=None, num_attention_heads=None)


def test_tower_takes_its_colours_from_the_image_processor():
    vision = read_tower(
        model_name="vit_base_patch16_siglip_256", ps3_scales=[256, 512], select_based_on_layer=[0]
    )
    assert (vision.image_mean, vision.image_std) == ([0.5] * 3, [0.25] * 3)
    assert vision.patch_size == 16  # the file's constant 14 is wrong for this trunk


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        ({}, [378, 756, 1512]),
        ({"s3_scales": [378, 756]}, [378, 756]),
        ({"ps3_scales": [378, 756], "s3_scales": [378, 1512]}, [378, 756]),
        ({"ps3_scales": [378, 756, 1512], "s3_scales": [378, 756]}, [378, 756, 1512]),
    ],
)
def test_scales_have_two_names(values, scales):
    assert read_tower(model_name="vit_so400m_patch14_siglip_384", **values).ps3_scales == scales


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ps3_scales": [14] * 17}, "ps3_scales"),
        ({"ps3_scales": [378, 2**17]}, "ps3_scales"),
        ({"ps3_scales": "378"}, "ps3_scales"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000, but it has only 40 tensors"),
        ({"highres_selection_module_depth": 10**6}, "highres_selection_module_depth"),
    ],
)
def test_towers_of_absurd_size_are_refused(values, words):
    with pytest.raises(VilaHDError, match=words):
        read_tower(**{"num_attention_heads": 16, **values})


def test_the_siglip_trunk_gets_its_published_name():
    vision = PS3VisionConfig(**SO400M)
    assert trunk_name(vision) == SO400M_NAME
    assert PS3VisionConfig(model_name=SO400M_NAME, **SO400M).num_hidden_layers == 27
    assert not find_tower_gaps(vision)
    assert trunk_name(tiny_vision_config()) is None


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3"])
def test_language_model_configs_are_read_again_as_they_were(kind, tmp_path):
    from transformers import AutoConfig

    text = tiny_text_config(kind, rope_parameters={"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0})
    values = write_llm_config(text, vocab_size=text.vocab_size, dtype="bfloat16")
    assert values["rope_theta"] == 5e5
    assert values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert values["torch_dtype"] == "bfloat16"
    assert "rope_parameters" not in values
    (tmp_path / "config.json").write_text(json.dumps(values))
    again = AutoConfig.from_pretrained(tmp_path).to_dict()
    skipped = ("dtype", "_name_or_path", "architectures", "transformers_version")
    expected = text.to_dict()
    assert {k: again[k] for k in expected if k not in skipped} == {
        k: v for k, v in expected.items() if k not in skipped
    }
