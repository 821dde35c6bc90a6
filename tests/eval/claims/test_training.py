"""Trainings are started once, in order, as many at a time as asked for, and can be interrupted."""

import json
import sys
import time
from dataclasses import replace

import pytest

from eval.claims import recipes
from eval.claims.claim import Training
from eval.claims.runner import CLAIMS, needed
from eval.claims.training import Running, Trainer, in_order
from train.config import StageConfig
from train.stage_files import load_model_file
from vila_hd.errors import VilaHDError
from vila_hd.utils.config import load, read_yaml

FIRST = Training(name="first", config="pretrain", minutes=1)
SECOND = Training(name="second", config="read", after=FIRST, minutes=1)
OTHER = Training(name="other", config="pretrain", overrides=("seed=1",), minutes=1)

TRAIN = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "started").write_text("")
# The two that need no other wait for each other: started one by one, they would wait in vain.
end = time.monotonic() + 100
while not folder.name.startswith("second") and len(list(folder.parent.glob("*/started"))) < 2:
    if time.monotonic() > end:
        sys.exit("alone")
    time.sleep(0.01)
if folder.name.startswith("second") and not list(folder.parent.glob("first-*/model/config.json")):
    sys.exit("too early")
(folder / "model").mkdir(parents=True)
(folder / "checkpoint-1").mkdir()
(folder / "model" / "config.json").write_text("")
"""


class FakeTrainer(Trainer):
    """Starts a script in place of ``python -m train``."""

    script = TRAIN

    def command(self, training):
        super().command(training)
        return [sys.executable, "-c", self.script, str(self.folder(training))]


def test_what_a_training_starts_from_comes_first_and_once():
    assert in_order([SECOND, OTHER, FIRST, SECOND]) == [FIRST, SECOND, OTHER]
    with pytest.raises(ValueError, match="two different trainings are called 'first'"):
        in_order([SECOND, replace(FIRST, minutes=2)])


def test_trainings_run_side_by_side_but_after_their_start(tmp_path):
    trainer = FakeTrainer(out=tmp_path, processes=2)
    models = trainer.run([SECOND, OTHER])
    assert set(models) == {"first", "second", "other"}
    assert all((folder / "config.json").is_file() for folder in models.values())
    assert not (trainer.folder(FIRST) / "checkpoint-1").exists()
    assert trainer.minutes(FIRST) > 0

    again = FakeTrainer(out=tmp_path)
    again.script = "raise SystemExit('trained twice')"
    assert again.run([SECOND, OTHER]) == models


def test_a_failure_names_the_training_and_stops_the_others(tmp_path):
    trainer = FakeTrainer(out=tmp_path, processes=2)
    trainer.script = (
        "import sys, time\n"
        "if 'first' in sys.argv[1]: sys.exit('error: no such thing')\n"
        "time.sleep(100)"
    )  # fmt: skip
    with pytest.raises(VilaHDError, match=r"training first ended with status 1: error: no such thing"):
        trainer.run([FIRST, OTHER])
    assert json.loads((trainer.folder(OTHER) / "times.jsonl").read_text())["wall_seconds"] < 60


def test_another_recipe_has_another_folder(tmp_path):
    trainer = Trainer(out=tmp_path)
    different = [
        FIRST,
        replace(FIRST, overrides=("seed=1",)),
        replace(FIRST, overrides=("model=configs/claims/model/no_low_res.yaml",)),
        SECOND,
        replace(SECOND, after=OTHER),
    ]
    assert len({trainer.key(training) for training in different}) == len(different)
    assert trainer.key(FIRST) != Trainer(out=tmp_path, smoke=True).key(FIRST)


def test_the_stage_file_of_a_training_is_complete(tmp_path):
    trainer = Trainer(out=tmp_path)
    command = trainer.command(replace(SECOND, overrides=("max_steps=7",)))
    stage = read_yaml(command[command.index("--config") + 1])
    assert (stage["max_steps"], stage["name"]) == (7, "stage")
    assert stage["model"] == str(trainer.folder(FIRST) / "model")


def test_all_trainings_of_the_claims_have_stage_files_that_fit(tmp_path):
    for smoke in (False, True):
        trainer = Trainer(out=tmp_path / str(smoke), smoke=smoke)
        for training in needed(CLAIMS):
            command = trainer.command(training)
            stage = load(StageConfig, command[command.index("--config") + 1])
            assert stage.max_steps == (2 if smoke else stage.max_steps)
            for path in (stage.model, stage.llm):
                if path is not None and path.suffix == ".yaml":
                    assert load_model_file(path).vision["hidden_size"] == (32 if smoke else 128)


def test_budgets_are_divided_among_the_scales():
    assert sum(recipes.split(recipes.MANY)) == recipes.MANY
    assert recipes.split(96) == (16, 80)


def test_progress_tells_the_last_logged_step(tmp_path):
    trainer = Trainer(out=tmp_path)
    trainer.command(FIRST)
    running = Running(FIRST, trainer.folder(FIRST), process=None, started=time.monotonic())
    steps = trainer.stage(FIRST)["max_steps"]
    assert running.progress() == f"training first: step 0 of {steps}, 0 min since its start"
    (running.folder / "metrics.jsonl").write_text('{"step": 20, "loss": 8.0}\n{"step": 40, "loss": 5.25}\n')
    assert f"step 40 of {steps}, loss 5.25," in running.progress()
