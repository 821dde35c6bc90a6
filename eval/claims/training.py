"""Trains what claims need: one process per core, each training once, resumable at its last checkpoint."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vila_hd.errors import VilaHDError
from vila_hd.utils.config import apply_override, read_yaml

from .claim import Training

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "claims"
MODEL = "model"
"""Subfolder of a run that holds the finished model, as ``python -m train`` writes it."""

TIMES = "times.jsonl"

PATIENCE = 60.0
"""Seconds between two lines about what is trained."""

SMOKE_STAGE = {
    "max_steps": 2,
    "global_batch_size": 2,
    "micro_batch_size": 2,
    "logging_steps": 1,
    "save_steps": 0,
    "optim": {"warmup_steps": 0},
}
SMOKE_MODEL = {
    "vision": {
        "hidden_size": 32,
        "num_hidden_layers": 3,  # VisionZip reads the one before the last but one
        "intermediate_size": 64,
        "select_based_on_layer": [0, 2],
        "highres_selection_module_hidden_dim": 8,
        "highres_selection_module_out_dim": 8,
    },
    "text": {"width": 32, "heads": 2, "layers": 1},
    "llm": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,  # one after those that FastV leaves alone
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


def in_order(wanted: Iterable[Training]) -> list[Training]:
    """The trainings and what they start from, each once, every one after the one that it starts from.

    Raises:
        ValueError: two different ones have the same name.
    """
    found: dict[str, Training] = {}

    def add(training: Training) -> None:
        if training.after is not None:
            add(training.after)
        if found.setdefault(training.name, training) != training:
            raise ValueError(f"two different trainings are called {training.name!r}")

    for training in wanted:
        add(training)
    return list(found.values())


def model_files(stage: Mapping[str, Any]) -> list[str]:
    """The keys of a stage that name a model file."""
    return [name for name in ("model", "llm") if str(stage.get(name, "")).endswith(".yaml")]


@dataclass
class Running:
    """A training process."""

    training: Training
    folder: Path
    process: subprocess.Popen[bytes]
    started: float

    def progress(self) -> str:
        """The last step that was logged, and its loss."""
        log, stage = self.folder / "metrics.jsonl", read_yaml(self.folder / "stage.yaml")
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        last = json.loads(lines[-1]) if lines else {"step": 0}
        loss = f", loss {last['loss']:.3g}" if "loss" in last else ""
        minutes = (time.monotonic() - self.started) / 60
        step = f"step {last['step']} of {stage['max_steps']}"
        return f"training {self.training.name}: {step}{loss}, {minutes:.0f} min since its start"


@dataclass(kw_only=True)
class Trainer:
    """Trains into ``out/models``."""

    out: Path

    smoke: bool = False

    processes: int = 2
    """Trainings at a time, of one thread each."""

    running: list[Running] = field(default_factory=list)

    told: float = field(default_factory=time.monotonic)
    """When it was last said how far trainings are."""

    def stage(self, training: Training) -> dict[str, Any]:
        """The stage of a training, all but its input and output."""
        values = read_yaml(CONFIGS / f"{training.config}.yaml")
        for override in training.overrides:
            values = apply_override(values, override)
        return values

    def key(self, training: Training) -> str:
        """Stands for everything that the weights depend on but the code."""
        values = self.stage(training)
        files = {name: read_yaml(ROOT / values[name]) for name in model_files(values)}
        start = None if training.after is None else self.key(training.after)
        text = json.dumps([values, files, start, self.smoke], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def folder(self, training: Training) -> Path:
        """Run folder of a training. Another recipe has another folder."""
        return self.out / "models" / f"{training.name}-{self.key(training)}"

    def is_done(self, training: Training) -> bool:
        """Whether its model is there."""
        return (self.folder(training) / MODEL / "config.json").is_file()

    def minutes(self, training: Training) -> float:
        """Processor time that it took, over all its runs; 0 when unknown."""
        path = self.folder(training) / TIMES
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(json.loads(line)["cpu_seconds"] for line in lines) / 60

    # ---------------------------------------------------------------- one training

    def command(self, training: Training) -> list[str]:
        """``python -m train`` for it; writes the stage file that it names."""
        folder = self.folder(training)
        values = self.stage(training)
        for name in model_files(values):
            values[name] = self._model_file(ROOT / values[name])
        if training.after is not None:
            values["model"] = str(self.folder(training.after).absolute() / MODEL)
        values |= {"name": "stage", "output_dir": str(folder.absolute())}
        if self.smoke:
            optim = values["optim"] | SMOKE_STAGE["optim"]
            values |= SMOKE_STAGE | {"optim": optim}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stage.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        stage = str(folder.absolute() / "stage.yaml")
        return [sys.executable, "-m", "train", "--config", stage, "--resume"]

    def _model_file(self, path: Path) -> str:
        """The model file, with tiny widths for a smoke run."""
        if not self.smoke:
            return str(path)
        folder = self.out / "models"
        folder.mkdir(parents=True, exist_ok=True)
        small = folder / path.name
        small.write_text(yaml.safe_dump({"base": str(path), **SMOKE_MODEL}), encoding="utf-8")
        return str(small.absolute())

    def start(self, training: Training) -> Running:
        """Start a training, or go on with it."""
        command, folder = self.command(training), self.folder(training)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (folder / "train.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C ends it through a checkpoint, see _stop
            )  # fmt: skip
        return Running(training, folder, process, time.monotonic())

    def reap(self, running: Running, *, wait: bool) -> float | None:
        """Processor seconds of a process that ended, which are noted; None when it still runs."""
        pid, status, usage = os.wait4(running.process.pid, 0 if wait else os.WNOHANG)
        if not pid:
            return None
        running.process.returncode = os.waitstatus_to_exitcode(status)
        self.running.remove(running)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        seconds = {"wall_seconds": time.monotonic() - running.started, "cpu_seconds": cpu_seconds}
        with (running.folder / TIMES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(seconds) + "\n")
        return cpu_seconds

    def finish(self, running: Running) -> None:
        """Remove the checkpoints of a finished run.

        Raises:
            VilaHDError: it failed.
        """
        status = running.process.returncode
        name, log = running.training.name, running.folder / "train.log"
        if status:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            last = lines[-1] if lines else "it wrote nothing"
            raise VilaHDError(f"training {name} ended with status {status}: {last} (all of it: {log})")
        for checkpoint in running.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    # ---------------------------------------------------------------- all of them

    def run(self, wanted: Sequence[Training]) -> dict[str, Path]:
        """Train what is missing; folders of the models by name of the training.

        Raises:
            VilaHDError: a training failed. The others that run then save a checkpoint first.
        """
        trainings = in_order(wanted)
        left = [training for training in trainings if not self.is_done(training)]
        total = len(left)
        if total:
            minutes = sum(training.minutes for training in left)
            say(f"{total} trainings, about {minutes:.0f} minutes of one core in all")
        try:
            while left or self.running:
                for training in list(left):
                    ready = training.after is None or self.is_done(training.after)
                    if ready and len(self.running) < self.processes:
                        left.remove(training)
                        self.running.append(self.start(training))
                        say(f"training {training.name}: started, about {training.minutes:.0f} min")
                self._collect(len(left), total)
        finally:
            self._stop()
        return {training.name: self.folder(training) / MODEL for training in trainings}

    def _collect(self, left: int, total: int) -> None:
        """Take over what ended in the meantime."""
        for running in list(self.running):
            seconds = self.reap(running, wait=False)
            if seconds is None:
                continue
            self.finish(running)
            done = total - left - len(self.running)
            name = running.training.name
            say(f"training {name}: done, {seconds / 60:.1f} min of one core ({done} of {total})")
        if time.monotonic() > self.told + PATIENCE:
            self.told = time.monotonic()
            for running in self.running:
                say(running.progress())
        if self.running:
            time.sleep(0.2)

    def _stop(self) -> None:
        """End what still runs; it saves a checkpoint."""
        for running in self.running:
            running.process.send_signal(signal.SIGTERM)
        for running in list(self.running):
            self.reap(running, wait=True)


def say(text: str) -> None:
    """One line of progress with the time of day."""
    print(f"[claims {time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
