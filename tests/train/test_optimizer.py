"""Muon trains hidden matrices and AdamW the rest, each at its own rate."""

from pathlib import Path

import pytest
import torch

from train import stages
from train.config import OptimConfig
from train.engine import engine_config
from train.optimizer import make_optimizer, parameter_groups
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_config, tiny_model

DEEPSPEED = Path(__file__).parents[2] / "configs" / "deepspeed"


def with_gradients():
    model = tiny_model(tiny_config("qwen2"))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def test_without_muon_lr_everything_is_adamws():
    model = tiny_model(tiny_config("qwen2"))
    assert not any(group["use_muon"] for group in parameter_groups(model, OptimConfig(lr=1.0)))
    assert type(make_optimizer(model, OptimConfig(lr=1.0))) is torch.optim.AdamW


def test_muon_takes_hidden_matrices_only():
    model = tiny_model(tiny_config("qwen2"))
    optim = OptimConfig(lr=2.0, muon_lr=0.5, component_lr={"vision": 1.0}, weight_decay=0.1)
    groups = parameter_groups(model, optim)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}
    assert sorted(name for found in held.values() for name in found) == sorted(names.values())
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates["llm (Muon)"] == (0.5, 0.1)
    assert rates["vision (Muon)"] == (0.25, 0.1)  # half, as of lr
    assert rates["vision (no decay)"] == (1.0, 0.0)
    muon = set().union(*(held[group["name"]] for group in groups if group["use_muon"]))
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in muon
    assert "model.vision_tower.vision_model.trunk.blocks.0.mlp.fc1.weight" in muon
    assert not [name for name in muon if "embed" in name or "lm_head" in name or "norm" in name]
    assert all(model.get_parameter(name).dim() == 2 for name in muon)


def test_a_step_of_muon_turns_every_direction_alike():
    model = with_gradients()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    stages.freeze_all_but(model, ["llm"])
    make_optimizer(model, OptimConfig(lr=0.5, muon_lr=0.1, weight_decay=0.0, betas=(0.9, 0.95))).step()

    def change(name):
        return (model.get_parameter(name) - before[name]).detach()

    hidden = torch.linalg.svdvals(change("model.language_model.layers.0.mlp.down_proj.weight"))
    assert hidden.max() < 0.1 * 1.3  # Newton-Schulz leaves singular values between 0.7 and 1.3
    assert hidden.min() > 0.1 * 0.5
    table = change("model.language_model.embed_tokens.weight")
    torch.testing.assert_close(table.abs(), torch.full_like(table, 0.5), rtol=1e-3, atol=0)  # Adam's first
    assert not change("model.projector.layers.2.weight").any()


def test_a_step_of_muon_leaves_compiling_to_others_alone():
    make_optimizer(with_gradients(), OptimConfig(lr=0.5, muon_lr=0.1)).step()
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(2))
    assert compiled


@pytest.mark.parametrize("zero", [2, 3])
def test_divided_optimizers_are_refused(zero):
    path = DEEPSPEED / f"zero{zero}.json"
    assert engine_config(path, "fp32")
    with pytest.raises(VilaHDError, match=rf"zero{zero}.json: ZeRO stage {zero} would clip Muon's updates"):
        engine_config(path, "fp32", muon=True)
    assert engine_config(DEEPSPEED / "zero0.json", "fp32", muon=True)


def test_rate_must_be_positive():
    with pytest.raises(ValueError, match=r"muon_lr=0\.0: use a learning rate > 0"):
        OptimConfig(lr=1.0, muon_lr=0.0)
