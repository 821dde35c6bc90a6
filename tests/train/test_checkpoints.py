"""Checkpoints are complete or not there, and a killed run goes on as if nothing had happened."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import vila_hd
from train import checkpoints
from train.run import run_stage
from vila_hd.errors import VilaHDError

WRITTEN = checkpoints.Written(ranks=1, zero_stage=0)


def write_checkpoint(run_folder: Path, step: int) -> Path:
    partial = checkpoints.start_partial(run_folder)
    inner = partial / f"checkpoint-{step}"
    (inner / "global_step").mkdir(parents=True)
    (inner / "global_step" / "state.pt").write_bytes(bytes(range(256)) * step)
    (inner / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    checkpoints.publish(inner, run_folder / inner.name, WRITTEN)
    return run_folder / inner.name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: truncate(folder / "global_step" / "state.pt"),
            "state.pt has 1023 bytes, expected 1024",
        ),
        (lambda folder: flip(folder / "global_step" / "state.pt"), "state.pt has another checksum"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json: No such file"),
        (lambda folder: (folder / "manifest.json").unlink(), "no readable manifest.json"),
        (lambda folder: truncate(folder / "manifest.json"), "no readable manifest.json"),
    ],
)
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(damage, message, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    before, newest = write_checkpoint(tmp_path, 2), write_checkpoint(tmp_path, 4)
    assert checkpoints.newest_intact(tmp_path) == newest
    assert not caplog.text
    damage(newest)
    assert checkpoints.newest_intact(tmp_path) == before
    assert f"{newest} is damaged ({message}" in caplog.text


def test_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint.partial" / "checkpoint-8").mkdir(parents=True)
    assert checkpoints.newest_intact(tmp_path) is None
    assert checkpoints.newest_intact(tmp_path / "nowhere") is None


def test_steps_are_numbers_and_old_checkpoints_go(tmp_path):
    for step in (8, 9, 10, 100):
        write_checkpoint(tmp_path, step)
    checkpoints.keep_newest(tmp_path, 2)
    assert [path.name for path in checkpoints.checkpoints_of(tmp_path)] == ["checkpoint-100", "checkpoint-10"]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (checkpoints.Written(2, 0), None),
        (checkpoints.Written(1, 2), "was written under ZeRO stage 0, this run uses 2"),
    ],
)
def test_what_can_be_resumed(now, message, tmp_path):
    checkpoint = write_checkpoint(tmp_path, 1)
    if message is None:
        checkpoints.check_resumable(checkpoint, now)
    else:
        with pytest.raises(VilaHDError, match=message):
            checkpoints.check_resumable(checkpoint, now)


# ---------------------------------------------------------------- whole runs


def rows(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the machine."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_per_s") and "memory" not in k} for row in found]


def run_until_killed(config, *, at: str, step: int) -> None:
    """``run_stage``, killed on rank 0 without warning: after a step, or while its checkpoint is written."""
    from train.trainer import StageTrainer

    name, seen = {"step": ("training_step", 0), "save": ("_save_rng_state", 0)}[at]
    original = getattr(StageTrainer, name)

    def killing(self, *arguments, **keywords):
        nonlocal seen
        seen += 1
        result = original(self, *arguments, **keywords)
        if self.state.global_step + (at == "step") >= step and int(os.environ["RANK"]) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(StageTrainer, name, killing)
    run_stage(config)


def check_kill_and_resume(run_ranks, values_of, make, folder, *, ranks, at):
    straight, killed = make(folder / "straight"), make(folder / "killed")
    values_of(run_ranks(run_stage, straight, ranks=ranks, timeout=300))
    first = run_ranks(lambda: run_until_killed(killed, at=at, step=4), ranks=ranks, timeout=300)
    assert first[0].status == -signal.SIGKILL
    assert not (killed.output_dir / "model").exists()
    assert [p.name for p in checkpoints.checkpoints_of(killed.output_dir)] == ["checkpoint-2"]
    values_of(run_ranks(lambda: run_stage(killed, resume=True), ranks=ranks, timeout=300))
    expected, found = rows(straight.output_dir), rows(killed.output_dir)
    assert [row["step"] for row in expected] == [1, 2, 3, 4]
    # Everything that was logged, before the kill and after it, is what the straight run logged.
    assert found[-2:] == expected[2:]
    assert all(row in expected for row in found)
    weights = [vila_hd.load(config.output_dir / "model")[0].state_dict() for config in (straight, killed)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)


@pytest.mark.parametrize("muon_lr", [None, 1e-2])
def test_killed_after_a_step(muon_lr, tiny_stage, tmp_path, run_ranks, values_of):
    def make(folder):
        return tiny_stage(
            folder, save_steps=2, trainable=["projector"], optim={"muon_lr": muon_lr},
            looks={"least_share": 0.25},
        )  # fmt: skip

    check_kill_and_resume(run_ranks, values_of, make, tmp_path, ranks=1, at="step")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["step", "save"])
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_killed_with_two_ranks(zero, at, tiny_stage, tmp_path, run_ranks, values_of):
    def make(folder):
        return tiny_stage(folder, zero=zero, save_steps=2, looks={"passes": 2, "least_share": 0.25})

    check_kill_and_resume(run_ranks, values_of, make, tmp_path, ranks=2, at=at)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2])
def test_another_number_of_ranks(zero, tiny_stage, tmp_path, run_ranks, values_of):
    config = tiny_stage(tmp_path, zero=zero, save_steps=2)
    values_of(run_ranks(run_stage, config, ranks=2, timeout=300))
    straight = vila_hd.load(tmp_path / "model")[0].state_dict()
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "checkpoint-4")
    (result,) = run_ranks(lambda: run_stage(config, resume=True), ranks=1, timeout=300)
    if zero:
        assert "was written by 2 process(es) and this run has 1: under ZeRO stage 2" in result.output
        return
    assert result.status == 0, result.output
    again = vila_hd.load(tmp_path / "model")[0].state_dict()
    torch.testing.assert_close(again, straight, rtol=0, atol=1e-5)
