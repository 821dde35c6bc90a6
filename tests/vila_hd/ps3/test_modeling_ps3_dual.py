import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from vila_hd.errors import VilaHDError
from vila_hd.ps3 import PS3VisionModel, Regions
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.modeling_ps3_text import PS3TextModel
from vila_hd.testing import tiny_vision_config

TEXT = {
    "vocab_size": 30,
    "width": 16,
    "heads": 2,
    "layers": 1,
    "context_length": 8,
    "output_dim": 32,
    "prompt_proj_dim": 32,
    "no_causal_mask": True,
    "pool_type": "last",
}


def tiny(**options) -> PS3Model:
    config = PS3Config(vision_config=tiny_vision_config(), text_config=PS3TextConfig(**TEXT), **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PS3Model(config).eval()


def some_ids(count: int) -> torch.Tensor:
    return torch.randint(0, 30, (count, 8), generator=torch.Generator().manual_seed(1))


def some_pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(2))


def test_saving_and_loading_keeps_every_tensor_and_output(tmp_path):
    model = tiny(logit_bias_init=-3.0)
    with torch.no_grad():
        model.logit_scale.fill_(1.25)
    model.save_pretrained(tmp_path)
    loaded = PS3Model.from_pretrained(tmp_path)
    assert model.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    before, after = model(some_pixels(2), some_ids(2)), loaded(some_pixels(2), some_ids(2))
    # Not to the last bit: kernels round by the alignment of the memory that tensors were loaded into.
    assert torch.allclose(before.image_embeds, after.image_embeds, atol=1e-5)
    assert torch.allclose(before.text_embeds, after.text_embeds, atol=1e-5)


def test_each_tower_is_read_from_the_combined_folder(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    text, vision = PS3TextModel.from_pretrained(tmp_path), PS3VisionModel.from_pretrained(tmp_path)
    assert torch.allclose(text(some_ids(2)).prompt, model.encode_text(some_ids(2)).prompt, atol=1e-5)
    assert torch.allclose(vision(some_pixels(1))[0], model.encode_image(some_pixels(1))[0], atol=1e-5)


def test_auto_classes_know_the_models_and_the_image_processor(tmp_path):
    tiny().save_pretrained(tmp_path)
    PS3ImageProcessor(128).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), PS3Config)
    assert isinstance(AutoModel.from_pretrained(tmp_path), PS3Model)
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), PS3ImageProcessor)


def test_a_published_file_without_the_two_numbers_starts_from_the_config(tmp_path):
    tiny(logit_scale_init=0.5).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["logit_scale"], tensors["logit_bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = PS3Model.from_pretrained(tmp_path)
    assert (loaded.logit_scale.item(), loaded.logit_bias.item()) == (0.5, -10.0)


def test_vision_keys_of_a_call_override_the_stored_ones(tmp_path):
    tiny().save_pretrained(tmp_path)
    loaded = PS3Model.from_pretrained(tmp_path, budget_rounding="floor", max_select_num=40)
    assert loaded.config.vision_config.budget_rounding == "floor"
    assert loaded.encode_image(some_pixels(1)).selection.index.shape == (1, 40)


def test_default_logit_numbers_are_those_of_sigmoid_contrast():
    model = tiny()
    assert model.logit_scale.exp().item() == pytest.approx(10.0)
    assert model.logit_bias.item() == -10.0
    assert model.config.logit_scale_init == pytest.approx(math.log(10))


def test_every_weight_of_a_new_model_has_a_start_value():
    model = tiny()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(float("nan"))
        for part in (*model.modules(), *model.parameters()):
            part.__dict__.pop("_is_hf_initialized", None)
        model.initialize_weights()
    assert not [name for name, value in model.named_parameters() if value.isnan().any()]


@torch.no_grad()
def test_texts_that_share_a_picture_share_its_low_resolution_pass():
    model, pixels, ids = tiny(), some_pixels(2), some_ids(3)
    look_index = torch.tensor([0, 0, 1])
    shared = model(pixels, ids, look_index=look_index)
    apart = model(pixels[look_index], ids)
    assert len(shared.vision.low.pictures) == 2
    assert torch.allclose(shared.image_embeds, apart.image_embeds, atol=1e-5)
    assert torch.allclose(shared.prompt_scores, apart.prompt_scores, atol=1e-6)


@torch.no_grad()
def test_looks_may_share_texts_and_other_texts_are_only_encoded():
    model, pixels, ids = tiny(), some_pixels(2), some_ids(3)
    output = model(pixels, ids, text_index=torch.tensor([2, 0]))
    direct = model(pixels, ids[[2, 0]])
    assert torch.allclose(output.image_embeds, direct.image_embeds, atol=1e-6)
    assert output.text_embeds.shape == (3, 32)


@torch.no_grad()
def test_pooling_reads_only_the_region():
    model, ids = tiny(), some_ids(1)
    regions = Regions.from_boxes([torch.tensor([[0.0, 0.0, 0.25, 0.25]])])
    low = model.vision_model.encode_low_res(some_pixels(1))
    output = model(some_pixels(1), ids, regions=regions)
    inside = output.vision.selection
    first_cells = [maps[0][:2, :2] for maps in inside.maps()]
    assert all(bool(cells.all()) for cells in first_cells)
    whole = model(some_pixels(1), ids)
    assert not torch.allclose(output.image_embeds, whole.image_embeds)
    assert low.grids == output.vision.low.grids


@torch.no_grad()
def test_global_texts_are_compared_with_the_whole_picture():
    model = tiny()
    output = model(some_pixels(2), some_ids(2), is_global=torch.tensor([True, False]))
    plain = model(some_pixels(2), some_ids(2))
    assert torch.equal(output.image_embeds[0], output.vision.low.pooled[0])
    assert torch.allclose(output.image_embeds[1], plain.image_embeds[1], atol=1e-5)
    assert torch.allclose(output.prompt_scores, plain.prompt_scores[1:], atol=1e-5)


@torch.no_grad()
def test_global_texts_skip_the_high_resolution_pass():
    looks, whole = torch.tensor([0, 1, 1, 0]), torch.tensor([True, False, True, False])
    model = tiny()
    output = model(some_pixels(2), some_ids(4), look_index=looks, is_global=whole)
    assert output.close_looks.tolist() == [1, 3]
    assert len(output.vision.selection.index) == len(output.prompt_scores) == len(output.saliency_scores) == 2
    assert output.image_embeds.shape[0] == 4
    none = model(some_pixels(2), some_ids(4), look_index=looks, is_global=torch.zeros(4, dtype=torch.bool))
    assert none.close_looks is None
    assert torch.allclose(none.image_embeds[[1, 3]], output.image_embeds[[1, 3]], atol=1e-5)


def test_global_texts_alone_still_run_every_module_without_effect():
    model = tiny().train()
    output = model(some_pixels(2), some_ids(2), is_global=torch.ones(2, dtype=torch.bool))
    assert output.close_looks.tolist() == [0]
    assert torch.equal(output.image_embeds, output.vision.low.pooled)
    output.image_embeds.square().sum().backward()
    tables = [table.grad for table in model.vision_model.pos_emb_residual]
    assert all(grad is not None and not grad.any() for grad in tables)


def test_the_loss_reaches_both_towers_and_the_selector():
    model = tiny().train()
    output = model(some_pixels(2), some_ids(2))
    logits = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.T + model.logit_bias
    (logits.sum() + output.prompt_scores.sum() + output.saliency_scores.sum()).backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    # Nothing reads the trunk's last norm without RADIO's, and residual tables start at places not chosen.
    assert {name.split(".")[1] for name in silent} <= {"trunk", "pos_emb_residual"}


def test_gradient_checkpointing_changes_no_gradient():
    plain, checked = tiny().train(), tiny().train()
    checked.gradient_checkpointing_enable()
    for model in (plain, checked):
        model(some_pixels(1), some_ids(1)).image_embeds.square().sum().backward()
    pairs = zip(plain.parameters(), checked.parameters(), strict=True)
    assert all(a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_folder_of_one_tower_is_named_in_one_line(tmp_path, part):
    tiny().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored[part]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(VilaHDError, match=f"no {part}") as caught:
        PS3Model.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_towers_of_different_prompt_width_are_refused():
    with pytest.raises(VilaHDError, match="prompt_proj_dim=32 and vision hidden_size=64"):
        PS3Config(vision_config=tiny_vision_config(hidden_size=64), text_config=PS3TextConfig(**TEXT))


def test_a_wrong_number_of_global_flags_is_refused():
    with pytest.raises(VilaHDError, match=r"is_global has shape \(3,\)"):
        tiny()(some_pixels(2), some_ids(2), is_global=torch.ones(3, dtype=torch.bool))
