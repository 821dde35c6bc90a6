"""The command line, and the whole chain of stages with two processes of the real DeepSpeed launcher."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import vila_hd
from train.launch import main
from train.stages import component_of
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.testing import tiny_picture

ROOT = Path(__file__).parents[2]
STAGES = ("ps3_pretrain", "ground", "read", "sft", "tune", "focus")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "none.yaml"],
        ["--config", str(ROOT / "configs/train/nano/sft.yaml"), "--set", "optim.speed=1"],
        ["--local_rank=0", "--config", "none.yaml"],
        ["recipe", "none.yaml"],
        ["--local_rank=1", "recipe", "none.yaml", "--smoke"],
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "train", "recipe", "configs/train/nano.yaml", "--smoke"]
    command += ["--output-dir", str(folder), "--publish", str(folder / "published")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_every_stage_leaves_a_complete_run_folder(smoke_runs):
    for name in STAGES:
        folder = smoke_runs / name
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2]
        assert all(row["loss"] == row["loss"] for row in rows)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["name"] == name
        versions = json.loads((folder / "versions.json").read_text())
        assert (versions["processes"], versions["threads"]) == (2, max(1, os.cpu_count() // 2))
        assert (folder / "command.txt").read_text().startswith("python -m train")


def test_pretraining_leaves_a_ps3_folder(smoke_runs):
    model = PS3Model.from_pretrained(smoke_runs / "ps3_pretrain" / "model")
    assert model.logit_bias.shape == ()
    assert float(model.logit_bias.detach()) == pytest.approx(-6.0, abs=0.1)


def test_frozen_components_do_not_change(smoke_runs):
    models = {name: vila_hd.load(smoke_runs / name / "model")[0] for name in ("tune", "focus")}
    before, after = (dict(models[name].named_parameters()) for name in ("tune", "focus"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {component_of(name) for name in changed} == {"selector"}


def test_published_model_answers(smoke_runs):
    model, processor = vila_hd.load(smoke_runs / "published")
    stored = json.loads((smoke_runs / "published" / "config.json").read_text())
    assert stored["dtype"] == "bfloat16"
    answer = vila_hd.ask(model, processor, [tiny_picture(1920, 1080)], "what is it?", max_new_tokens=2)
    assert answer.receipt.lines()


def test_finished_stages_are_skipped(smoke_runs, caplog, monkeypatch):
    monkeypatch.chdir(ROOT)
    caplog.set_level(logging.INFO)
    arguments = [
        "recipe",
        "configs/train/nano.yaml",
        "--smoke",
        "--ranks",
        "1",
        "--output-dir",
        str(smoke_runs),
    ]
    assert main(arguments) == 0
    assert caplog.text.count("finished already") == len(STAGES)


def run_recipe(recipe, folder, *arguments):
    command = [sys.executable, "-m", "train", "recipe", str(recipe), "--smoke", "--output-dir", str(folder)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_interrupted_run_ends_with_the_same_weights(tmp_path):
    recipe = yaml.safe_load((ROOT / "configs/train/nano.yaml").read_text())
    recipe["stages"] = [str(ROOT / "configs/train/nano/ps3_pretrain.yaml")]
    recipe["smoke_model"] = str(ROOT / "configs/model/nano_smoke.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    arguments = ["--ranks", "1", "--set", "max_steps=4", "--set", "save_steps=2"]
    run_recipe(path, tmp_path / "runs", *arguments)
    run = tmp_path / "runs" / "ps3_pretrain"
    straight = PS3Model.from_pretrained(run / "model").state_dict()
    # As if the power had failed during step 4.
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoint-4")
    run_recipe(path, tmp_path / "runs", *arguments)
    resumed = PS3Model.from_pretrained(run / "model").state_dict()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 3, 4]
    torch.testing.assert_close(resumed, straight, rtol=0, atol=0)
