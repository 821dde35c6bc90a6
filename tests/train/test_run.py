"""One stage from its config to the finished model, under every ZeRO stage, with two ranks."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

import vila_hd
from train.run import run_stage
from vila_hd.errors import VilaHDError
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.testing import tiny_text_config, tiny_tokenizer, tiny_vision_config

ROOT = Path(__file__).parents[2]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compose_values(tmp_path: Path, llm: str) -> dict[str, object]:
    """A stage that joins a tower to a language model: stored in a folder, or built from a model file."""
    tower = tmp_path / "tower"
    PS3VisionModel(tiny_vision_config(max_select_num=12)).save_pretrained(tower)
    source = ROOT / "configs/model/nano_smoke.yaml"
    if llm == "folder":
        source = tmp_path / "llm"
        tokenizer = tiny_tokenizer()
        # Fewer rows than tokens: composing adds some.
        AutoModelForCausalLM.from_config(tiny_text_config(vocab_size=len(tokenizer) - 1)).save_pretrained(
            source
        )
        tokenizer.save_pretrained(source)
    return {"stage": "align", "model": str(tower), "llm": str(source), "max_steps": 2}


@pytest.mark.parametrize("llm", ["folder", pytest.param("file", marks=pytest.mark.slow)])
def test_zero3_composes_a_new_model_and_learns_the_same(llm, tiny_stage, tmp_path, run_ranks, values_of):
    values = compose_values(tmp_path, llm)
    for zero in (0, 3):
        values_of(run_ranks(run_stage, tiny_stage(tmp_path / f"zero{zero}", zero=zero, **values)))
    assert losses(tmp_path / "zero0") == pytest.approx(losses(tmp_path / "zero3"), rel=1e-4)
    plain, cut = (vila_hd.load(tmp_path / f"zero{zero}" / "model")[0].state_dict() for zero in (0, 3))
    assert plain.keys() == cut.keys()
    for name, value in plain.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=2e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_pretraining_learns_the_same_under_every_stage(zero, tiny_stage, tmp_path, run_ranks, values_of):
    values = {
        "stage": "ps3_pretrain",
        "model": str(ROOT / "configs/model/nano_smoke.yaml"),
        "trainable": ["vision", "selector", "text"],
        "contrastive": {"global_share": 0.5},
        "max_steps": 2,
    }
    for stage in (0, zero):
        config = tiny_stage(tmp_path / f"zero{stage}", zero=stage, **values)
        values_of(run_ranks(run_stage, config, timeout=300))
    assert losses(tmp_path / f"zero{zero}") == pytest.approx(losses(tmp_path / "zero0"), rel=1e-4)
    plain, cut = (
        PS3Model.from_pretrained(tmp_path / f"zero{stage}" / "model").state_dict() for stage in (0, zero)
    )
    for name, value in plain.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["zero2_offload", "zero3_offload"])
def test_offloaded_optimizer_learns_the_same(file, tiny_stage, tmp_path, run_ranks, values_of):
    values = {"max_steps": 2, "global_batch_size": 2}
    offloaded = {**values, "deepspeed": str(ROOT / f"configs/deepspeed/{file}.json")}
    values_of(run_ranks(run_stage, tiny_stage(tmp_path / "plain", **values), timeout=300))
    values_of(run_ranks(run_stage, tiny_stage(tmp_path / file, **offloaded), timeout=300))
    assert losses(tmp_path / file) == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_recomputing_and_accumulating_learn_the_same(zero, tiny_stage, tmp_path, run_ranks, values_of):
    values = {"max_steps": 2, "global_batch_size": 4, "trainable": ["vision", "selector", "projector", "llm"]}
    other = {**values, "zero": zero, "gradient_checkpointing": True}
    values_of(run_ranks(run_stage, tiny_stage(tmp_path / "plain", micro_batch_size=2, **values), timeout=300))
    values_of(run_ranks(run_stage, tiny_stage(tmp_path / "other", **other), timeout=300))
    plain, found = (vila_hd.load(tmp_path / name / "model")[0].state_dict() for name in ("plain", "other"))
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3, msg=name)


def test_what_is_written_down(tiny_stage, tmp_path, run_ranks, values_of):
    config = tiny_stage(
        tmp_path, max_steps=2, global_batch_size=1, maps_steps=2, maps_samples=2, trainable=["projector"]
    )
    values_of(run_ranks(run_stage, config, ranks=1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["peak_memory_gb"] > 0
        # 2 x 2 patches per token, of a 4 x 4 grid and of at most 12 more.
        assert 5 <= row["visual_tokens"] <= 7
        per_look = row["visual_tokens_per_s"] / row["looks_per_s"]
        assert per_look == pytest.approx(row["visual_tokens"], rel=0.05)
        assert row["tokens_per_s"] > row["looks_per_s"] == row["pictures_per_s"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["step-000002"]
    pictures = [Image.open(tmp_path / "maps" / "step-000002" / f"{i}.png") for i in range(2)]
    assert [picture.size for picture in pictures] == [(1920, 540)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "train/tokens_per_s", "train/visual_tokens", "train/peak_memory_gb"} <= set(scalars)
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert events.Tags()["images"] == ["maps/0", "maps/1"]


def test_missing_wandb_names_the_extra(tiny_stage, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VilaHDError, match=r"trackers=\[wandb\].*vila-hd\[wandb\]"):
        run_stage(tiny_stage(tmp_path, trackers=["wandb"]))
