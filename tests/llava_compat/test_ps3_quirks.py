"""One test per oddity of the published PS3: mended, or kept because numbers depend on it."""

import pytest
import torch

from llava_compat.ps3 import PS3Config, PS3Model, PS3VisionConfig, PS3VisionModel
from vila_hd.errors import VilaHDError
from vila_hd.ps3 import modeling_ps3
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.plans import plan_passes, plan_passes_published
from vila_hd.testing import tiny_vision_config


def build(model_class=PS3VisionModel, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(tiny_vision_config(**{"resample": "bicubic", **changes})).eval()


@pytest.fixture(scope="module")
def model() -> PS3VisionModel:
    return build()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def chosen(model, pixels, **call) -> list[int]:
    """Patches per high-resolution scale; there are 64 and 256, and a full pass takes 16 and 64."""
    with torch.no_grad():
        return model(pixels, **call).selection.counts()[0].tolist()


@pytest.mark.parametrize("key", ["ps3_scales", "s3_scales"])
def test_1_mended_both_names_of_the_scales_are_read(model, key):
    assert PS3VisionConfig(**{key: [28, 56, 112]}).ps3_scales == [28, 56, 112]
    assert getattr(model.vision_model, key) == [32, 64, 128]


def test_1_mended_the_newer_key_is_written():
    assert "s3_scales" not in PS3VisionConfig(s3_scales=[28, 56, 112]).to_dict()


def test_2_mended_all_as_a_number_of_tokens(model, pixels):
    assert chosen(model, pixels, num_token_look_close="all") == [64, 256]
    assert chosen(model, pixels, num_look_close="all") == [64, 256]


def test_3_both_counts_the_token_budget_limits_a_single_pass(model, pixels):
    both = chosen(model, pixels, num_look_close=1, num_token_look_close=40)
    assert both == chosen(model, pixels, num_token_look_close=40) == [8, 32]


def test_3_mended_both_counts_with_several_passes_are_refused_in_one_line(model, pixels):
    with pytest.raises(VilaHDError, match="2 passes and 40 patches") as caught:
        model(pixels, num_look_close=2, num_token_look_close=40)
    assert "\n" not in str(caught.value)


def test_4_kept_passes_are_clamped_to_what_covers_the_picture(model, pixels):
    assert chosen(model, pixels, num_look_close=99) == [64, 256]
    assert model(pixels, num_look_close=99).selection.passes.max() == 4


def test_4_kept_the_last_pass_may_be_short():
    model = build(max_select_num_each_scale=[12, 48])
    plan = plan_passes_published([64, 256], model.vision_model.max_select_num_each_scale, num_passes=99)
    assert [sum(step) for step in plan] == [60, 60, 60, 60, 60, 20]


@pytest.mark.parametrize(
    ("split", "first", "expected"),
    [
        ((16, 64), 1, (64, 16)),  # 80 wanted of the first scale, which has 64: the rest spills over
        ((85, 341, 2134), 2, (510, 2049, 1)),
    ],
)
def test_5_kept_the_first_scales_are_favoured_but_not_a_strict_limit(split, first, expected):
    sizes = (64, 256) if len(split) == 2 else (2916, 11664, 72900)
    assert plan_passes_published(sizes, split, num_passes=1, first_scales=first) == (expected,)


def test_5_kept_a_smaller_token_budget_is_refilled(model, pixels):
    assert sum(chosen(model, pixels, num_token_look_close=10, only_select_first_n_scale=1)) == 80


def test_5_a_budget_below_zero_is_refused_in_one_line():
    with pytest.raises(VilaHDError, match="patches") as caught:
        plan_passes_published((36, 144, 900), (3, 12, 80), num_passes=1, first_scales=1)
    assert "\n" not in str(caught.value)


def test_6_kept_what_the_last_scale_cannot_use_is_lost():
    plan = plan_passes_published((16, 64), (1, 19), num_passes="all")
    assert sum(map(sum, plan)) == 68


def test_6_mended_our_own_plan_takes_every_patch():
    plan = plan_passes((16, 64), (1, 19), budget="all")
    assert [sum(step) for step in plan] == [20, 20, 20, 20]


@torch.no_grad()
def test_7_kept_only_the_first_scale_decides_where_to_look(model, pixels):
    other = build()
    encoder, width, out = other.vision_model, 32, 8
    encoder.selection_feature_proj.fc2.weight[width:].add_(1.0)
    encoder.selection_feature_proj.fc2.bias[width:].add_(1.0)
    encoder.prompt_proj_for_highres.weight[out:].add_(1.0)
    encoder.prompt_proj_for_highres.bias[out:].add_(1.0)
    before, after = model(pixels, num_look_close=1), other(pixels, num_look_close=1)
    assert torch.equal(before[0], after[0])
    coarse, fine = before.selection_probs
    assert torch.equal(fine, coarse.repeat_interleave(2, 1).repeat_interleave(2, 2))


@torch.no_grad()
def test_8_kept_probabilities_stay_within_the_logit_of_five(model, pixels):
    prompt = 1e4 * torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    (probs, _) = model(pixels, num_look_close=1, prompt=prompt).selection_probs
    assert probs.logit().abs().max() <= 5.0 + 1e-3


@torch.no_grad()
def test_9_kept_integer_maps_lose_partly_covered_cells(model, pixels):
    whole = torch.zeros(1, 16, 16)
    whole[:, 2:4, 2:4] = 1  # one cell of the 8 x 8 grid
    partly = whole.clone()
    partly[:, 3, 4] = 1  # a quarter of the next
    marked = {
        name: int((model(pixels, num_look_close=1, gt_selection_maps=maps).selection_probs[0] == 1).sum())
        for name, maps in {"float": partly, "int": partly.long(), "whole": whole.long()}.items()
    }
    assert marked == {"float": 2, "int": 1, "whole": 1}


def test_9_mended_our_own_regions_keep_partly_covered_cells():
    maps = torch.zeros(1, 16, 16, dtype=torch.long)
    maps[:, 3, 4] = 1
    assert modeling_ps3.Regions.from_maps(maps).on_grid(8, 8).sum() == 1


def test_10_kept_the_detail_branch_sees_1512_pixels_whatever_the_scales():
    assert PS3VisionConfig(ps3_scales=[28, 56, 112]).selection_image_size == 1512


@torch.no_grad()
def test_11_mended_encode_image_takes_one_number_of_scales(pixels):
    text = PS3TextConfig(
        vocab_size=9, width=8, heads=2, layers=1, context_length=4, output_dim=32, prompt_proj_dim=32
    )
    model = PS3Model(PS3Config(vision_config=tiny_vision_config(), text_config=text)).eval()
    one = model.encode_image(pixels, num_look_close=1, only_select_first_n_scale=1)
    several = model.encode_image(pixels, num_look_close=1, only_select_first_n_scale=[1])
    assert torch.equal(one[0], several[0])


def test_12_mended_the_patch_size_is_that_of_the_trunk():
    config = PS3VisionConfig(
        model_name="vit_large_patch16_224",
        hidden_size=1024,
        ps3_scales=[384, 768, 1536],
        select_based_on_layer=[0, 7, 14, 23],
        patch_size=14,
    )
    assert config.patch_size == 16


@torch.no_grad()
def test_12_kept_dropout_is_read_and_ignored(model, pixels):
    other = build(drop=0.5).train()
    assert torch.equal(other(pixels, num_look_close=1)[0], model(pixels, num_look_close=1)[0])
