"""Every parameter belongs to a component, and a stage trains what it names."""

import pytest
import torch
from torch import nn

from train import stages
from train.config import OptimConfig
from train.optimizer import parameter_groups
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.testing import TINY_TEXT_MODELS, tiny_config, tiny_model, tiny_vision_config


def tiny_ps3() -> PS3Model:
    text = PS3TextConfig(
        output_dim=32, prompt_proj_dim=32, context_length=8, vocab_size=50, width=16, heads=2, layers=1
    )
    return PS3Model(PS3Config(vision_config=tiny_vision_config(), text_config=text))


@pytest.mark.parametrize("model_type", TINY_TEXT_MODELS)
def test_every_parameter_of_the_multi_modal_model_has_a_component(model_type):
    model = tiny_model(tiny_config(model_type))
    found = {stages.component_of(name) for name, _ in model.named_parameters()}
    assert found == {"vision", "selector", "projector", "llm"}


def test_every_parameter_of_the_dual_model_has_a_component():
    found = {stages.component_of(name) for name, _ in tiny_ps3().named_parameters()}
    assert found == {"vision", "selector", "text"}


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("model.vision_tower.vision_model.trunk.blocks.0.attn.qkv.weight", "vision"),
        ("model.vision_tower.vision_model.selection_feature_proj.fc1.weight", "selector"),
        ("vision_model.prior_prompt", "selector"),
        ("text_model.prompt_proj.fc1.weight", "selector"),
        ("text_model.ln_final.weight", "text"),
        ("logit_bias", "text"),
        ("model.projector.high_res_pos_embed", "projector"),
        ("model.projector.top_down_prompt_head.0.weight", "selector"),
        ("lm_head.weight", "llm"),
    ],
)
def test_longest_prefix_decides(name, component):
    assert stages.component_of(name) == component


def test_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match=r"'model\.new\.weight' belongs to no component"):
        stages.component_of("model.new.weight")


def test_freezing_counts_and_keeps_frozen_modules_in_eval_mode():
    model = tiny_model()
    counts = stages.freeze_all_but(model, ["projector"])
    assert counts["projector"][0] > 0
    assert counts["llm"][0] == 0
    assert sum(map(sum, counts.values())) == sum(p.numel() for p in model.parameters())
    model.train()
    stages.eval_frozen_modules(model)
    assert model.training
    assert not model.model.language_model.training
    assert not model.model.vision_tower.training
    assert model.model.projector.training


def test_trainable_component_must_exist():
    with pytest.raises(ValueError, match=r"\['text'\], but the model has only"):
        stages.freeze_all_but(tiny_model(), ["text"])


def test_groups_have_their_own_rate_and_hold_every_trained_parameter_once():
    model = tiny_ps3()
    stages.freeze_all_but(model, ["vision", "selector"])
    groups = parameter_groups(model, OptimConfig(lr=1.0, component_lr={"selector": 3.0}, weight_decay=0.5))
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "selector": (3.0, 0.5),
        "selector (no decay)": (3.0, 0.0),
        "vision": (1.0, 0.5),
        "vision (no decay)": (1.0, 0.0),
    }
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    vectors = {id(p) for p in model.parameters() if p.dim() < 2}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    assert not decayed & (vectors | norms)


def test_scheduler_scales_every_group():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.AdamW(
        [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 3.0}]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5]
