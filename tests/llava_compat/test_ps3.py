"""The published interface: attributes, fields, and one-line errors for what it cannot do."""

import pytest
import torch

from llava_compat.ps3 import PS3Config, PS3Model, PS3VisionConfig, PS3VisionModel
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3 import modeling_ps3
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.testing import tiny_vision_config

TEXT = {
    "vocab_size": 30,
    "width": 16,
    "heads": 2,
    "layers": 1,
    "context_length": 8,
    "output_dim": 32,
    "prompt_proj_dim": 32,
}


def build(model_class, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).eval()


@pytest.fixture(scope="module")
def model() -> PS3VisionModel:
    return build(PS3VisionModel, tiny_vision_config(resample="bicubic"))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return torch.randn(2, 32, generator=torch.Generator().manual_seed(2))


def test_attributes_that_scripts_read(model):
    encoder = model.vision_model
    assert encoder.ps3_scales == [32, 64, 128]
    assert (encoder.low_res_token_num, encoder.width, encoder.layers, encoder.patch_size) == (16, 32, 3, 8)
    assert encoder.max_select_num_each_scale == [16, 64]
    assert encoder.num_hidden_layers_to_return == 3
    assert len(encoder.trunk.blocks) == 3


def test_selection_parameters_are_those_that_no_feature_depends_on(model, pixels):
    names = model.vision_model.token_selection_param_names()
    assert set(names) < dict(model.vision_model.named_parameters()).keys()
    other = build(PS3VisionModel, model.config)
    with torch.no_grad():
        for name in names:
            other.vision_model.get_parameter(name).add_(0.3)
    everything = {"num_look_close": "all"}  # whatever the order: every patch, in passes of other patches
    assert torch.equal(model(pixels, num_look_close=0)[0], other(pixels, num_look_close=0)[0])
    assert not torch.equal(
        model(pixels, **everything).selection_probs[0], other(pixels, **everything).selection_probs[0]
    )


@torch.no_grad()
def test_same_numbers_as_our_own_interface(model, pixels, prompt):
    ours = build(modeling_ps3.PS3VisionModel, model.config)
    expected = ours(pixels, prompt, options=HighResOptions(budget=160), layers=(-2, -1))
    output = model(pixels, num_look_close=2, prompt=prompt)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.hidden_states[-2], expected.hidden_states[0])
    assert torch.equal(output.selection.index, expected.selection.index)


@torch.no_grad()
def test_feature_maps_hold_the_features_where_maps_are_one_and_zeros_elsewhere(model, pixels, prompt):
    output = model(pixels, num_look_close=1, prompt=prompt)
    maps = model.vision_model.format_features_into_feature_maps(
        output.last_hidden_state, output.selection_maps
    )
    low, high = maps[0].flatten(2).mT, [m.flatten(2).mT for m in maps[1:]]
    chosen = [m.flatten(1).bool() for m in output.selection_maps]
    kept = [torch.cat([h[b][c[b]] for h, c in zip(high, chosen, strict=True)]) for b in range(2)]
    assert torch.equal(torch.cat([low, torch.stack(kept)], dim=1), output.last_hidden_state)
    assert all(not h[~c].any() for h, c in zip(high, chosen, strict=True))


def test_setting_the_budget_of_each_scale_leaves_the_config_alone(model, pixels):
    model = build(PS3VisionModel, model.config)
    model.vision_model.max_select_num_each_scale = [3, 5]
    with torch.no_grad():
        counts = [int(m[0].sum()) for m in model(pixels, num_look_close=1).selection_maps]
    assert counts == [3, 5]
    assert model.config.max_select_num_each_scale is None


@torch.no_grad()
def test_fields_of_the_two_modes(model, pixels, prompt):
    features = model(pixels, num_look_close=1, prompt=prompt)
    assert features.pooled_output is None
    assert features.bottomup_selection_probs is None
    pooled = model(pixels, prompt=prompt, output_hidden_states=False)
    assert pooled.last_hidden_state is None
    assert pooled.pooled_output.shape == (2, 32)
    assert [m.shape for m in pooled.topdown_selection_probs] == [m.shape for m in pooled.selection_maps]
    low = model(pixels, num_look_close=0)
    assert low.selection_maps is None
    assert len(low.hidden_states) == 3


@torch.no_grad()
def test_global_texts_get_the_low_resolution_vector(model, pixels, prompt):
    call = {"prompt": prompt, "output_hidden_states": False}
    plain = model(pixels, **call).pooled_output
    mixed = model(pixels, **call, is_global_text=torch.tensor([[True], [False]])).pooled_output
    assert torch.equal(mixed[1], plain[1])
    assert torch.equal(
        mixed[0], model.encode_low_res(pixels, layers=(), keep_cache=False, pool=True).pooled[0]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_keeps_its_dtype(model, pixels, dtype):
    model = build(PS3VisionModel, model.config).to(dtype)
    output = model(pixels.to(dtype), num_look_close=1)
    assert {t.dtype for t in (output[0], *output.selection_maps, *output.selection_probs)} == {dtype}
    assert output[0].isfinite().all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({}, "neither num_look_close nor num_token_look_close"),
        ({"num_look_close": -1}, "num_look_close=-1"),
        ({"num_look_close": "some"}, "num_look_close='some'"),
        ({"num_token_look_close": 1.5}, "num_token_look_close=1.5"),
        ({"num_look_close": True}, "num_look_close=True"),
        ({"num_look_close": 1, "prompt": torch.zeros(2, 31)}, r"prompt has shape \(2, 31\): use \(2, 32\)"),
        ({"num_look_close": 1, "gt_selection_maps": torch.zeros(2, 8)}, r"gt_selection_maps has shape"),
        ({"num_look_close": 1, "gt_selection_maps": torch.zeros(3, 8, 8)}, r"\(3, 8, 8\)"),
        ({"num_look_close": 1, "only_select_first_n_scale": 3}, "only_select_first_n_scale=3"),
        ({"num_look_close": 1, "only_select_first_n_scale": [1]}, r"only_select_first_n_scale=\[1\]"),
        ({"num_look_close": 1, "pool_gt_token_only": True}, "without gt_selection_maps"),
        ({"num_look_close": 1, "output_hidden_states": False}, "num_look_close: pre-training"),
        (
            {"output_hidden_states": False, "is_global_text": torch.ones(3)},
            r"is_global_text has shape \(3,\)",
        ),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(model, pixels, call, named):
    with pytest.raises(VilaHDError, match=named) as caught:
        model(pixels, **call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.zeros(3, 8, 8), [torch.zeros(3, 8, 8)], torch.zeros(1, 4, 8, 8)])
def test_wrong_pixels_are_refused(model, value):
    with pytest.raises(VilaHDError):
        model(value, num_look_close=1)


@pytest.mark.parametrize("value", [[1], [0, 0], [1, -1], [1, 2.5]])
def test_a_wrong_budget_of_each_scale_is_refused(model, value):
    with pytest.raises(VilaHDError, match="max_select_num_each_scale"):
        model.vision_model.max_select_num_each_scale = value


def test_a_wrong_number_of_returned_layers_is_refused(model, pixels, monkeypatch):
    monkeypatch.setattr(model.vision_model, "num_hidden_layers_to_return", 4)
    with pytest.raises(VilaHDError, match="num_hidden_layers_to_return=4"):
        model(pixels, num_look_close=1)


def test_maps_of_another_output_are_refused(model, pixels):
    one, two = model(pixels, num_look_close=1), model(pixels, num_look_close=2)
    with pytest.raises(VilaHDError, match="selection_maps choose"):
        model.vision_model.format_features_into_feature_maps(one[0], two.selection_maps)


def test_different_numbers_of_patches_within_a_batch_are_refused(pixels):
    model = build(PS3VisionModel, tiny_vision_config(max_select_num_each_scale=[4, 76]))
    with pytest.raises(VilaHDError, match=r"\[320, 272\] patches") as caught:
        model(pixels, num_look_close="all", only_select_first_n_scale=[1, 2])
    assert "\n" not in str(caught.value)


def test_combined_model_offers_both_towers_and_refuses_a_call_of_its_own(pixels):
    config = PS3Config(vision_config=tiny_vision_config(), text_config=PS3TextConfig(**TEXT))
    model = build(PS3Model, config)
    text = model.encode_text(torch.ones(2, 8, dtype=torch.long))
    output = model.encode_image(pixels, num_look_close=1, prompt=text.prompt)
    assert output.last_hidden_state.shape == (2, 96, 32)
    with pytest.raises(VilaHDError, match="encode_image"):
        model(pixels, torch.ones(2, 8, dtype=torch.long))


def test_a_saved_model_of_one_interface_is_read_by_the_other(tmp_path, model, pixels):
    model.save_pretrained(tmp_path)
    ours = modeling_ps3.PS3VisionModel.from_pretrained(tmp_path)
    again = PS3VisionModel.from_pretrained(tmp_path)
    expected = model(pixels, num_look_close=1)[0]
    assert torch.allclose(again(pixels, num_look_close=1)[0], expected, atol=1e-5)
    assert torch.allclose(ours(pixels)[0], expected, atol=1e-5)
    assert isinstance(again.config, PS3VisionConfig)
