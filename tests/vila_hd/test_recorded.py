"""Our model with published weights gives what the published one gave (float32, one small random model)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from vila_hd import HighResOptions, VilaHDConfig, VilaHDForConditionalGeneration
from vila_hd.ps3 import PS3VisionConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "vila_hd"
RECORDED = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
ENCODE = [case for case in RECORDED["cases"] if case["name"].startswith("encode_")]
GENERATE = [case for case in RECORDED["cases"] if case["name"].startswith("gen_")]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="module")
def model() -> VilaHDForConditionalGeneration:
    folder = GOLDEN / "model"
    stored = json.loads((folder / "vision_tower" / "config.json").read_text(encoding="utf-8"))
    dropped = ("model_type", "architectures", "transformers_version", "torch_dtype")
    vision = {key: value for key, value in stored.items() if key not in dropped}
    config = VilaHDConfig(
        # Recorded with ps3-torch 0.1.3, which drops what rounding leaves over.
        vision_config=PS3VisionConfig(**{**vision, **RECORDED["trunk"]}, budget_rounding="floor"),
        text_config=AutoConfig.from_pretrained(folder / "llm"),
        cell_rule="published",
        **RECORDED["model"],
    )
    ours = {}
    for part, prefix in (("vision_tower", "model.vision_tower."), ("mm_projector", "model.projector.")):
        for name, value in load_file(folder / part / "model.safetensors").items():
            ours[prefix + name] = value
    for name, value in load_file(folder / "llm" / "model.safetensors").items():
        ours[name.replace("model.", "model.language_model.", 1) if name != "lm_head.weight" else name] = value
    model = VilaHDForConditionalGeneration(config).eval()
    model.load_state_dict(ours, strict=True)
    return model


@pytest.mark.parametrize("case", ENCODE, ids=lambda case: case["name"])
@torch.no_grad()
def test_visual_tokens(
    model: VilaHDForConditionalGeneration, tensors: dict[str, torch.Tensor], case: dict[str, Any]
) -> None:
    guide = "saliency" if case["prompts"] is None else "prompt"
    seen = model.model.vision_tower(
        [tensors[f"pixels.{i}"] for i in case["pictures"]],
        None if case["prompts"] is None else tensors["prompts"][case["prompts"]],
        options=HighResOptions(budget=case["budget"], guided_by=guide),
        layers=(model.config.select_layer,),
    )
    low = model.model.projector.project_low_res(seen.low.features[0])
    high, counts = model.model.project_high_res(low, seen.high, seen.selection, None)
    for i, part in enumerate(high.split(list(counts))):
        expected = tensors[f"{case['name']}.features.{i}"]
        torch.testing.assert_close(torch.cat([low[i], part]), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("case", GENERATE, ids=lambda case: case["name"])
@torch.no_grad()
def test_answers(
    model: VilaHDForConditionalGeneration, tensors: dict[str, torch.Tensor], case: dict[str, Any]
) -> None:
    ids = _expand(tensors[f"{case['name']}.input_ids"][0].tolist(), model.config)
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": [tensors[f"pixels.{i}"] for i in case["pictures"]],
        "high_res": HighResOptions(budget=case["budget"], smooth=case["smooth"]),
    }
    output = model(**inputs)
    expected = tensors[f"{case['name']}.last_position_logits"]
    torch.testing.assert_close(output.logits[:, -1], expected, atol=1e-4, rtol=0)
    assert output.looks is not None
    for look, scales in enumerate(output.looks.pass_maps()):
        for scale, passes in enumerate(scales):
            recorded = tensors[f"{case['name']}.pass_of_token.{scale}"][look]
            assert torch.equal(passes, recorded.long())
    stop = {"eos_token_id": RECORDED["stop_ids"], "pad_token_id": RECORDED["pad_id"]}
    answer = model.generate(**inputs, max_new_tokens=16, do_sample=False, **stop)[:, len(ids) :]
    assert torch.equal(answer, tensors[f"{case['name']}.generated_ids"])


def _expand(ids: list[int], config: VilaHDConfig) -> list[int]:
    """Ids with one placeholder per picture -> ids as our processor writes them."""
    block = [config.image_token_id] * config.low_res_tokens + RECORDED["end_ids"]
    return [i for token in ids for i in (block if token == config.image_token_id else [token])]
