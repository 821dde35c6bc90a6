"""Towers and their configurations on disk: what is saved comes back, and published forms are read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3 import PS3VisionConfig, PS3VisionModel
from vila_hd.testing import perturb, tiny_vision_config


def random_tower(**changes) -> PS3VisionModel:
    """No parameter is what a new tower has."""
    torch.manual_seed(0)
    tower = PS3VisionModel(tiny_vision_config(**changes)).eval()
    perturb(tower)
    return tower


def pictures() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


RADIO = {
    "radio": True,
    "radio_adapter_mlp_version": "v2",
    "radio_adapter_mlp_input_dim": 32,
    "radio_adapter_mlp_hidden_dim": 20,
    "radio_adapter_mlp_output_dim": 16,
    "radio_adapter_mlp_num_inner": 2,
    "position_grid_size": 20,
}


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"highres_selection_feature": False, "separate_pos_emb": False},
        {"residual_grid_size": 3, "resample": "antialias"},
        RADIO,
        {**RADIO, "radio_adapter_mlp_version": "v1", "final_norm": True},
    ],
)
def test_saved_towers_come_back_equal(tmp_path, changes):
    tower = random_tower(**changes)
    tower.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, PS3VisionModel)
    assert again.state_dict().keys() == tower.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), tower.parameters(), strict=True))
    options = HighResOptions(budget=33)
    a, b = tower(pictures(), options=options, pool=True), again(pictures(), options=options, pool=True)
    # Not bit by bit: loaded tensors lie elsewhere in memory, and kernels care.
    torch.testing.assert_close(a.last_hidden_state, b.last_hidden_state, atol=2e-6, rtol=0)
    torch.testing.assert_close(a.pooled_output, b.pooled_output, atol=2e-6, rtol=0)


def test_saved_config_comes_back_equal(tmp_path):
    config = tiny_vision_config(**RADIO, budget_rounding="floor", max_select_num_each_scale=[3, 4])
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_dict() == {
        **config.to_dict(),
        "_name_or_path": again.to_dict().get("_name_or_path", ""),
    } or (again.to_diff_dict() == config.to_diff_dict())


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({k: v for k, v in {**values, **changes}.items() if v is not ...}), encoding="utf-8"
    )


def test_sizes_missing_from_the_config_are_read_from_the_tensors(tmp_path):
    tower = random_tower(position_grid_size=7)
    tower.save_pretrained(tmp_path)
    missing = ("num_hidden_layers", "intermediate_size", "position_grid_size", "num_attention_heads")
    edit_config(tmp_path, **dict.fromkeys(missing, ...), patch_size=14)
    again = PS3VisionModel.from_pretrained(tmp_path, num_attention_heads=4)
    found, expected = again(pictures()).last_hidden_state, tower(pictures()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    with pytest.raises(VilaHDError, match="num_attention_heads"):
        PS3VisionModel.from_pretrained(tmp_path)


def test_combined_files_and_the_older_scale_key_are_read(tmp_path):
    tower = random_tower()
    tower.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"text_model.a": torch.zeros(2), "logit_scale": torch.zeros(()), "logit_bias": torch.zeros(())}
    save_file({**tensors, **extra}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    vision = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    vision["s3_scales"] = vision.pop("ps3_scales")
    combined = {"model_type": "ps3", "architectures": ["PS3Model"], "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(combined), encoding="utf-8")
    again = PS3VisionModel.from_pretrained(tmp_path)
    assert again.config.ps3_scales == [32, 64, 128]
    found, expected = again(pictures()).last_hidden_state, tower(pictures()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_released_trunk_names_are_known():
    config = PS3VisionConfig(model_name="vit_so400m_patch14_siglip_384", patch_size=14)
    assert (config.num_hidden_layers, config.num_attention_heads, config.mlp_size) == (27, 16, 4304)
    assert config.position_grid_size == 27
    radio = {k: v for k, v in RADIO.items() if k != "position_grid_size"}
    config = PS3VisionConfig(
        **{**radio, "radio_adapter_mlp_output_dim": 1152},
        model_name="vit_large_patch16_224",
        img_size=4096,
        hidden_size=1024,
        ps3_scales=[384, 768, 1536],
        select_based_on_layer=[0, 7, 14, 23],
    )
    assert (config.patch_size, config.position_grid_size, config.pool_sizes) == (16, 256, (1152, 16, 4304))
