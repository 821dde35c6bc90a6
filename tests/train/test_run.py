"""One stage from its config to the finished model, under every ZeRO stage, with two ranks."""

import json
from pathlib import Path

import pytest
import torch

import vila_hd
from train.run import run_stage
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.testing import tiny_vision_config

ROOT = Path(__file__).parents[2]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compose_values(tmp_path: Path) -> dict[str, object]:
    tower = tmp_path / "tower"
    PS3VisionModel(tiny_vision_config(max_select_num=12)).save_pretrained(tower)
    return {
        "stage": "align",
        "model": str(tower),
        "llm": str(ROOT / "configs/model/nano_smoke.yaml"),
        "max_steps": 2,
    }


def test_zero3_composes_a_new_model_and_learns_the_same(tiny_stage, tmp_path, run_ranks, values_of):
    values = compose_values(tmp_path)
    for zero in (0, 3):
        values_of(run_ranks(run_stage, tiny_stage(tmp_path / f"zero{zero}", zero=zero, **values)))
    assert losses(tmp_path / "zero0") == pytest.approx(losses(tmp_path / "zero3"), rel=1e-4)
    plain, cut = (vila_hd.load(tmp_path / f"zero{zero}" / "model")[0].state_dict() for zero in (0, 3))
    assert plain.keys() == cut.keys()
    for name, value in plain.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=2e-3, msg=name)
