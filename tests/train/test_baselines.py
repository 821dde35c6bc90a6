"""Towers that see whole pictures train like PS3: the same stages, batches and ranks."""

import json
from pathlib import Path

import pytest
import torch

import vila_hd
from train.config import LookConfig, OptimConfig, StageConfig
from train.run import run_stage
from train.stages import freeze_all_but
from train.steps import LanguageStep, look_options
from vila_hd.errors import VilaHDError
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.testing import (
    tiny_config,
    tiny_model,
    tiny_picture,
    tiny_processor,
    tiny_vision_config,
    user_message,
)
from vila_hd.towers.choice import EncoderChoice

ROOT = Path(__file__).parents[2]
ENCODERS = {
    "low_res": EncoderChoice(kind="low_res"),
    "anyres": EncoderChoice(kind="anyres", max_tiles=4),
    "s2": EncoderChoice(kind="s2", scales=(32, 64)),
}


def stage(**looks):
    return StageConfig(
        name="rows", stage="sft", model=Path("none"), trainable=("vision", "projector", "llm"),
        output_dir=Path("none"), optim=OptimConfig(lr=1e-3), looks=LookConfig(**looks), max_steps=1,
        global_batch_size=2, micro_batch_size=2, precision="fp32",
    )  # fmt: skip


def make_batch(processor, pictures):
    """Two rows: a text, and a question about ``pictures``."""
    rows = [[user_message("say it")], [user_message("what is there?", *pictures)]]
    texts = [processor.apply_chat_template(row, add_generation_prompt=True) + "yes" for row in rows]
    inputs = processor(text=texts, padding=True, return_tensors="pt", images=pictures or None)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    looks = len(pictures)
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "labels": labels,
        "pixel_values": list(inputs["pixel_values"]) if pictures else None,
        "look_index": torch.arange(looks),
        "prompt_positions": torch.full((2,), labels.shape[1] - 4),
        "boxes": torch.zeros(0, 4, dtype=torch.long),
        "box_look": torch.zeros(0, dtype=torch.long),
        "picture_sizes": torch.tensor([[p.width, p.height] for p in pictures]).view(-1, 2),
        "own_choice": torch.zeros(looks, dtype=torch.bool),
    }


@pytest.mark.parametrize("kind", ENCODERS)
def test_one_step_trains_the_trunk_with_and_without_pictures(kind):
    config = tiny_config(encoder=ENCODERS[kind])
    processor = tiny_processor(config)
    step = LanguageStep(stage())
    for pictures in ([tiny_picture(90, 60), tiny_picture(20, 20)], []):
        model = tiny_model(config).train()
        freeze_all_but(model, ("vision", "projector", "llm"))
        batch = make_batch(processor, pictures)
        step.begin([batch], 0)
        result = step(model, batch, num_items=torch.tensor(6))
        result.loss.backward()
        assert torch.isfinite(result.loss)
        # Also without pictures every block that is used gets a gradient: ranks must agree on that.
        used = model.model.vision_tower.vision_model.trunk.blocks[:2].parameters()
        sums = [parameter.grad.abs().sum().item() for parameter in used]
        assert all(total > 0 for total in sums) == bool(pictures)
        if pictures:
            counted = processor.count_image_tokens([(p.height, p.width) for p in pictures])
            mean = sum(count.low_res + count.high_res for count in counted) / len(counted)
            assert result.metrics["visual_tokens"] == mean


def test_looks_of_a_choice_are_refused():
    vision = tiny_config(encoder=ENCODERS["anyres"]).vision_config
    assert look_options(LookConfig(), vision).budget == "all"
    for values in ({"per_scale": (1, 2)}, {"guided_by": "random"}, {"least_share": 0.5}):
        with pytest.raises(VilaHDError, match="chooses no patches"):
            look_options(LookConfig(**values), vision)


@pytest.mark.parametrize(
    "kind",
    ["anyres", pytest.param("low_res", marks=pytest.mark.slow), pytest.param("s2", marks=pytest.mark.slow)],
)
def test_a_stage_composes_trains_and_saves_under_zero3(kind, tiny_stage, tmp_path, run_ranks, values_of):
    tower = tmp_path / "tower"
    PS3VisionModel(tiny_vision_config(max_select_num=12)).save_pretrained(tower)
    model_file = tmp_path / f"{kind}.yaml"
    options = {"anyres": ", max_tiles: 4", "s2": ", scales: [32, 64]"}.get(kind, "")
    model_file.write_text(
        f"base: {ROOT}/configs/model/nano_smoke.yaml\nname: {kind}\n"
        f"fusion: {{encoder: {{kind: {kind}{options}}}}}\n"
    )
    values = {
        "stage": "align",
        "model": str(tower),
        "llm": str(model_file),
        "trainable": ["vision", "projector", "llm"],
        "max_steps": 2,
    }
    for zero in (0, 3):
        values_of(run_ranks(run_stage, tiny_stage(tmp_path / f"zero{zero}", zero=zero, **values)))
    plain, cut = (
        [
            json.loads(line)["loss"]
            for line in (tmp_path / f"zero{zero}/metrics.jsonl").read_text().splitlines()
        ]
        for zero in (0, 3)
    )
    assert plain == pytest.approx(cut, rel=1e-4)
    model, _ = vila_hd.load(tmp_path / "zero3/model")
    assert model.config.vision_config.model_type == f"vila_hd_{kind}_vision"
    before = PS3VisionModel.from_pretrained(tower).vision_model.trunk.patch_embed.proj.weight
    assert not torch.equal(model.model.vision_tower.vision_model.trunk.patch_embed.proj.weight, before)


def test_looks_can_be_random_in_training():
    model = tiny_model(tiny_config(prompt_head=None, default_guide="random")).train()
    config = stage(per_scale=(4, 8), guided_by="random", own_choice=1.0)
    with pytest.raises(ValueError, match="guided_by='random' gives the selector nothing"):
        StageConfig(**{**vars(config), "trainable": ("selector", "llm")})
    freeze_all_but(model, ("vision", "projector", "llm"))
    batch = make_batch(tiny_processor(model.config), [tiny_picture(128, 96)])
    step = LanguageStep(config)
    step.begin([batch], 0)
    result = step(model, batch, num_items=torch.tensor(6))
    result.loss.backward()
    assert result.metrics["high_res_patches"] == 12
