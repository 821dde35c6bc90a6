"""Whole runs on rows of data files, in processes of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from train.engine import free_port
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

ROOT = Path(__file__).parents[2]


def train(folder: Path, *arguments: str, status: int = 0, ranks: int = 1) -> str:
    launcher = ["deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", str(free_port())]
    module = ["train"] if ranks == 1 else [*launcher, "--module", "train"]
    command = [sys.executable, "-m", *module, "--config", str(folder / "rows.yaml"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stderr


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model, rows of every kind with two broken ones, and a stage."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    tiny_picture(96, 60).save(tmp_path / "a.png")
    tiny_picture(60, 90).save(tmp_path / "b.png")
    rows = [
        {"conversations": chat("Hello?", "Hello.", "And?", "That is all.")},
        {"image": "a.png", "conversations": chat("What is it?", "A town.")},
        {"images": ["a.png", "b.png"], "conversations": chat("Compare.", "Equal.")},
        {"image": "b.png", "box": [8, 8, 40, 50], "conversations": chat("Where is it?", "Here.")},
    ] * 8
    rows += [{"id": f"lost{i}", "image": "lost.png", "conversations": chat("What?", "A.")} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "name": "rows",
        "stage": "pretrain",
        "model": str(tmp_path / "model"),
        "trainable": ["projector", "llm"],
        "output_dir": str(tmp_path / "run"),
        "max_steps": 4,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "precision": "fp32",
        "optim": {"lr": 1e-3},
        "looks": {"per_scale": [16, 64]},
        "data": {
            "packing": True,
            "num_workers": 2,
            "max_broken": 0.3,
            "sources": [{"path": str(tmp_path / "rows.jsonl")}],
        },
    }
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.slow
def test_resumed_run_with_other_loader_processes_ends_with_the_same_weights(folder: Path) -> None:
    log = train(folder)
    assert "broken row left out" in log
    assert "sample 'lost" in log
    assert 0 < read_metrics(folder)[-1]["broken"] < 0.3
    straight = load_file(folder / "run" / "model" / "model.safetensors")
    # As if the power had failed during step 4.
    shutil.rmtree(folder / "run" / "model")
    shutil.rmtree(folder / "run" / "checkpoint-4")
    train(folder, "--resume", "--set", "data.num_workers=0")
    resumed = load_file(folder / "run" / "model" / "model.safetensors")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.slow
def test_too_many_broken_rows_stop_the_run(folder: Path) -> None:
    rows = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([rows[0], *rows[-6:] * 4]))
    log = train(folder, "--set", "max_steps=20", "--set", "data.max_broken=0.1", status=2)
    error = log.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "more than data.max_broken=0.1" in error
    assert "sample 'lost" in error


@pytest.mark.slow
def test_ranks_with_other_kinds_of_rows_under_zero3_learn_the_same(folder: Path) -> None:
    # With one row per rank and micro-batch, one rank reads text while the other looks at pictures.
    losses = []
    for ranks, micro, zero in ((1, 4, 0), (2, 1, 3)):
        zero_file = f"deepspeed=configs/deepspeed/zero{zero}.json"
        options = [zero_file, f"micro_batch_size={micro}", "save_steps=0", "data.num_workers=0"]
        train(folder, *(word for option in options for word in ("--set", option)), ranks=ranks)
        names = ("loss", "language", "top_down_bce", "top_down_dice")
        losses.append([[row[name] for name in names] for row in read_metrics(folder)])
        shutil.rmtree(folder / "run")
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-3, atol=1e-4)
