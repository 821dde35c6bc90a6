"""A stage on shards of real pictures, through the command line and the engine."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from train.assembly import assemble
from train.config import StageConfig
from train.data.shards import ShardWriter
from train.stage_files import load_stage
from train.steps import MAX_LOGIT_SCALE
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.testing import tiny_picture
from vila_hd.utils.config import from_dict

FITTED = {"regions": {"sources": [{"name": "a", "path": "x"}], "resize": "fit"}}
ROOT = Path(__file__).parents[2]


def write_stage(folder: Path) -> Path:
    with ShardWriter(folder / "shards/a.tar") as writer:
        for i in range(6):
            file = io.BytesIO()
            tiny_picture(300 + 100 * (i % 2), 200, seed=i).save(file, "JPEG")
            regions = [
                {"box": [20 * k, 10, 60 + 20 * k, 90], "caption": f"a red sign {i} {k}"} for k in range(3)
            ]
            said = {"regions": regions, "global_caption": f"a town {i}"}
            writer.add(f"{i}", {"jpg": file.getvalue(), "json": json.dumps(said).encode()})
    stage = {
        "name": "stage", "stage": "ps3_pretrain", "model": "configs/model/nano_smoke.yaml",
        "output_dir": str(folder / "run"), "trainable": ["vision", "selector", "text"], "max_steps": 3,
        "global_batch_size": 4, "micro_batch_size": 2, "logging_steps": 1, "optim": {"lr": 1e-3},
        "contrastive": {"global_share": 0.5, "global_instead": True},
        "selection": {"resolution": "scales", "bottom_up_target": "sampled_boxes"},
        "data": {
            "items_per_picture": 2, "num_workers": 1,
            "regions": {"sources": [{"name": "a", "path": str(folder / "shards")}], "resize": "squash"},
        },
    }  # fmt: skip
    path = folder / "stage.yaml"
    path.write_text(yaml.safe_dump(stage))
    return path


@pytest.mark.slow
def test_stage_trains_on_shards(tmp_path):
    command = [sys.executable, "-m", "train", "--config", str(write_stage(tmp_path))]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] == row["loss"] and row["top_down_dice"] >= 0 for row in rows)
    assert PS3Model.from_pretrained(tmp_path / "run/model").logit_scale.shape == ()


def test_saved_scale_is_the_one_that_the_loss_used(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parts = assemble(load_stage(write_stage(tmp_path)), ranks=1)
    state = dict(parts.model.state_dict())
    state["logit_scale"] = state["logit_scale"] + 9.0
    state["logit_bias"] = state["logit_bias"] - 1.5
    bias = float(state["logit_bias"])
    parts.save(tmp_path / "saved", state)  # takes the weights out of the mapping as it writes them
    loaded = PS3Model.from_pretrained(tmp_path / "saved")
    assert float(loaded.logit_scale.detach()) == pytest.approx(MAX_LOGIT_SCALE)
    assert float(loaded.logit_bias.detach()) == pytest.approx(bias)
    assert parts.count_supervised(parts.collator([parts.dataset[i] for i in range(4)])) >= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "sft"}, "only 'ps3_pretrain' reads regions"),
        ({"contrastive": {"swapped_captions": 3}}, "swapped_captions=3 with data.regions"),
        (
            {"selection": {"resolution": "scales"}, "data": FITTED},
            "resolution=scales with data.regions.resize=fit",
        ),
        (
            {"contrastive": {"global_instead": True, "close_ups": 0.5}},
            "close_ups=0.5: only for scenes",
        ),
        ({"data": {"regions": {"sources": []}}}, "sources is empty"),
        ({"data": {"regions": {"sources": [{"name": "a", "path": "x", "weight": 0}]}}}, "weight=0"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    stage = yaml.safe_load(write_stage(tmp_path).read_text()) | change
    with pytest.raises(ValueError, match=message):
        from_dict(StageConfig, stage)
