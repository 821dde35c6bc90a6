"""A signal saves, ends with a status of its own, and costs nothing."""

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import torch

import vila_hd
from train import launch
from train.engine import ranks_from_slurm
from train.exits import REQUEUE, Preempted
from train.run import run_stage
from vila_hd.errors import VilaHDError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train/slurm/train.sbatch"


def run_and_signal(config, number: int, *, on_rank: int) -> int:
    """``run_stage``; during step 2 one rank gets a signal. Returns the step that it stopped after."""
    from train.trainer import StageTrainer

    original = StageTrainer.training_step

    def signalled(self, *arguments, **keywords):
        if self.state.global_step == 1 and int(os.environ["RANK"]) == on_rank:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **keywords)

    StageTrainer.training_step = signalled
    with pytest.raises(Preempted) as stop:
        run_stage(config)
    return stop.value.step


def check(tiny_stage, tmp_path, run_ranks, values_of, *, number, ranks, on_rank):
    straight, stopped = (
        tiny_stage(tmp_path / name, global_batch_size=ranks, max_steps=3, trainable=["projector"])
        for name in ("straight", "stopped")
    )
    steps = values_of(run_ranks(lambda: run_and_signal(stopped, number, on_rank=on_rank), ranks=ranks))
    assert steps == [2] * ranks
    assert (stopped.output_dir / "checkpoint-2" / "manifest.json").exists()
    assert not (stopped.output_dir / "model").exists()
    values_of(run_ranks(lambda: run_stage(stopped, resume=True), ranks=ranks))
    values_of(run_ranks(run_stage, straight, ranks=ranks))
    a, b = (vila_hd.load(c.output_dir / "model")[0].state_dict() for c in (straight, stopped))
    torch.testing.assert_close(b, a, rtol=0, atol=0)


def test_signal_saves_and_the_run_goes_on_as_if_nothing_was(tiny_stage, tmp_path, run_ranks, values_of):
    check(tiny_stage, tmp_path, run_ranks, values_of, number=signal.SIGUSR1, ranks=1, on_rank=0)


@pytest.mark.slow
def test_signal_on_one_rank_stops_all(tiny_stage, tmp_path, run_ranks, values_of):
    check(tiny_stage, tmp_path, run_ranks, values_of, number=signal.SIGTERM, ranks=2, on_rank=1)


def test_status_of_a_stopped_run(monkeypatch, capsys):
    def stop(*arguments, **keywords):
        raise Preempted(7)

    monkeypatch.setattr("train.run.run_stage", stop)
    monkeypatch.chdir(ROOT)
    assert launch.main(["--config", "configs/train/nano/sft.yaml"]) == REQUEUE == 75
    assert "after step 7" in capsys.readouterr().err


# ---------------------------------------------------------------- Slurm


def test_ranks_come_from_slurm():
    task = {
        "SLURM_NTASKS": "16", "SLURM_PROCID": "11", "SLURM_LOCALID": "3",
        "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500",
    }  # fmt: skip
    expected = {"RANK": "11", "LOCAL_RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    assert ranks_from_slurm(task) == expected
    assert ranks_from_slurm({**task, "RANK": "0"}) == {}  # another launcher has spoken
    assert ranks_from_slurm({**task, "SLURM_NTASKS": "1"}) == {}
    assert ranks_from_slurm({}) == {}
    with pytest.raises(VilaHDError, match="as one of 16 tasks without MASTER_PORT: export"):
        ranks_from_slurm({name: value for name, value in task.items() if name != "MASTER_PORT"})


def fake_slurm(folder: Path, *, status: int) -> dict[str, str]:
    """An environment whose ``srun``, ``scontrol`` and ``scancel`` write down how they were called."""
    tools = {
        "scontrol": 'if [ "$1" = show ]; then echo node-1; echo node-2; fi',
        "scancel": 'kill -USR1 "$(cat "$LOG.pid")"',
        "srun": f'echo $$ > "$LOG.pid"; echo "$MASTER_ADDR $MASTER_PORT" >> "$LOG"\n'
        f"trap 'exit {status}' USR1\n"
        'touch "$LOG.started"; for _ in $(seq 100); do sleep 0.1; done; exit 1',
    }
    for name, body in tools.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$LOG"\n{body}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[1-2]", "LOG": str(folder / "log")}
    return {**os.environ, **job, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": "python"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("status", [REQUEUE, 3])
def test_batch_script_passes_the_signal_on_and_queues_again(status, tmp_path):
    job = subprocess.Popen(
        ["bash", str(SCRIPT), "--config", "x.yaml"], env=fake_slurm(tmp_path, status=status)
    )
    for _ in range(300):
        if (tmp_path / "log.started").exists():
            break
        signal.sigtimedwait([], 0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == status
    calls = (tmp_path / "log").read_text().splitlines()
    assert "srun --kill-on-bad-exit=0 python -m train --resume --config x.yaml" in calls
    assert "node-1 24711" in calls
    assert "scancel --signal=USR1 4711.0" in calls
    assert ("scontrol requeue 4711" in calls) == (status == REQUEUE)


def test_batch_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
