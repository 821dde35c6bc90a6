"""Recomputing activations changes neither loss nor gradients, in the tower and in the language model."""

import pytest
import torch

from vila_hd.options import HighResOptions
from vila_hd.testing import TINY_TEXT_MODELS, tiny_config, tiny_model


def loss_and_gradients(model):
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(0, 200, (3, 11), generator=generator)
    shown = torch.full((3, model.config.low_res_tokens), model.config.image_token_id)
    ids = torch.cat([shown, words], dim=1)
    labels = ids.clone()
    labels[:, :-5] = -100
    pixels = [torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8, generator=generator) for _ in range(2)]
    model.zero_grad()
    output = model(
        ids, pixel_values=pixels, look_index=torch.tensor([0, 1, 1]), labels=labels,
        prompt_positions=torch.full((3,), ids.shape[1] - 6), high_res=HighResOptions(budget=48),
        prompt_gradient=True,
    )  # fmt: skip
    (output.loss + output.scores.mean()).backward()
    return output.loss.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("model_type", TINY_TEXT_MODELS)
def test_same_loss_and_gradients(model_type):
    model = tiny_model(tiny_config(model_type, vision={"max_select_num": 24})).train()
    calls = []
    tower, language = model.model.vision_tower.vision_model, model.model.language_model
    blocks = {"tower": tower.trunk.blocks, "llm": language.layers}
    for name, part in blocks.items():
        # Before the call: recomputing stops as soon as everything is there again.
        part[0].mlp.register_forward_pre_hook(lambda *arguments, name=name: calls.append(name))
    loss, gradients = loss_and_gradients(model)
    plain = {name: calls.count(name) for name in ("tower", "llm")}
    calls.clear()
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, recomputed = loss_and_gradients(model)
    # Every block with a gradient is run twice: this is what saves memory.
    assert calls.count("tower") == 2 * plain["tower"]
    assert calls.count("llm") == 2 * plain["llm"]
    torch.testing.assert_close(again, loss, rtol=0, atol=0)
    assert recomputed.keys() == gradients.keys()
    torch.testing.assert_close(recomputed, gradients, rtol=1e-6, atol=1e-7)
