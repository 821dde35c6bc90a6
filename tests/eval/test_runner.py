import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import torch

from eval.conditions import Condition
from eval.failures import CannotGoOnError
from eval.launch import main
from eval.predict import Job, Task, do
from eval.registry import full_name
from eval.runner import score_row
from eval.store import Prediction, read_predictions
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_picture


def run(folder, out, *more, tasks="choices"):
    argv = ["--model", str(folder), "--tasks", tasks, "--out", str(out), "--batch-size", "4"]
    return main([*argv, "--threads", "1", *more])


def rows(out, table=0):
    return json.loads((out / "report.json").read_text())["tables"][table]["rows"]


def test_a_run_writes_predictions_and_a_report(tiny_folder, choices, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tiny_folder, out, "--budget", "0", "12", "--per-scale", "4,8") == 0
    settings, predictions = read_predictions(out / "choices.jsonl")
    assert (settings["task"], settings["data"]) == ("choices", "r1")
    assert len(predictions) == 12
    low, high = rows(out)
    assert (low["condition"], high["condition"]) == ("low-res", "prompt-12-4x8")
    assert (low["questions"], low["failed"]) == (6, 0)
    assert low["tokens"] < high["tokens"] < high["prompt_tokens"]
    assert [row["kind"] for row in rows(out, 1)] == ["even", "odd"]
    facts = json.loads((out / "report.json").read_text())["facts"]
    assert facts["data"] == "choices r1"
    assert {"torch", "transformers", "vila-hd", "weights", "dtype"} <= set(facts)
    printed = capsys.readouterr().out
    assert "$ python -m eval --model" in printed
    assert "prompt-12-4x8" in (out / "report.md").read_text()


def test_answers_are_kept_and_only_the_rest_is_asked(tiny_folder, choices, tmp_path):
    assert run(tiny_folder, tmp_path, "--limit", "2") == 0
    before = (tmp_path / "choices.jsonl").read_text()
    assert "first 2 of each task" in (tmp_path / "report.md").read_text()
    assert run(tiny_folder, tmp_path) == 0
    after = (tmp_path / "choices.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 1 + 6


def test_other_data_are_not_mixed_in(tiny_folder, choices, tmp_path, capsys):
    assert run(tiny_folder, tmp_path, "--limit", "1") == 0
    choices.revision = "r2"
    assert run(tiny_folder, tmp_path) == 2
    assert "has data='r1', asked for 'r2'" in capsys.readouterr().err


def test_broken_samples_are_recorded_and_the_others_answered(tiny_folder, choices, tmp_path, capsys):
    choices.broken_pictures = {1}
    choices.broken_examples = {4}
    assert run(tiny_folder, tmp_path) == 2
    _, predictions = read_predictions(tmp_path / "choices.jsonl")
    errors = {uid: entry.error for (uid, _), entry in predictions.items() if entry.error}
    assert errors == {"q1": "BrokenPictureError: truncated", "broken-4": "KeyError: 'image'"}
    assert predictions["q1", "prompt-auto"].answer == "B"
    (row,) = rows(tmp_path)
    assert (row["questions"], row["failed"]) == (6, 2)
    printed = capsys.readouterr()
    assert "choices q1: BrokenPictureError: truncated" in printed.out
    assert "error: 2 of 6 answers are missing and count as wrong" in printed.err
    assert "2 of 6" in json.loads((tmp_path / "report.json").read_text())["incomplete"]

    assert run(tiny_folder, tmp_path) == 2  # asked again, failed again
    assert rows(tmp_path) == [row]
    choices.broken_pictures, choices.broken_examples = set(), set()
    assert run(tiny_folder, tmp_path) == 0
    (row,) = rows(tmp_path)
    assert row["failed"] == 0
    _, again = read_predictions(tmp_path / "choices.jsonl")
    assert again["q0", "prompt-auto"] == predictions["q0", "prompt-auto"]
    assert again["q4", "prompt-auto"].error == ""


def test_ctrl_c_keeps_what_was_answered_and_reports_nothing(tiny_folder, choices, tmp_path, capsys):
    choices.interrupted = {5}
    assert run(tiny_folder, tmp_path) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    _, before = read_predictions(tmp_path / "choices.jsonl")
    assert [uid for uid, _ in before] == ["q0", "q1", "q2", "q3"]
    assert not (tmp_path / "report.json").exists()
    choices.interrupted = set()
    assert run(tiny_folder, tmp_path) == 0
    _, after = read_predictions(tmp_path / "choices.jsonl")
    assert {key: after[key] for key in before} == before
    assert [row["questions"] for row in rows(tmp_path)] == [6]


def test_a_full_disk_is_one_line_and_costs_no_answer(tiny_folder, choices, tmp_path, capsys, disk_of):
    assert run(tiny_folder, tmp_path, "--limit", "3") == 0
    path = tmp_path / "choices.jsonl"
    before = path.read_bytes()
    (tmp_path / "report.json").unlink()
    capsys.readouterr()
    with disk_of(len(before) + 300):
        assert run(tiny_folder, tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: cannot write {path}: File too large; nothing before is lost, start again when there is room"
    ]
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().endswith(b"\n")
    assert not (tmp_path / "report.json").exists()
    assert run(tiny_folder, tmp_path) == 0


def test_a_report_that_finds_no_room_leaves_nothing_behind(tiny_folder, choices, tmp_path, capsys, disk_of):
    assert run(tiny_folder, tmp_path) == 0
    before = (tmp_path / "report.json").read_bytes()
    with disk_of(100):  # all answers are there already
        assert run(tiny_folder, tmp_path) == 2
    assert "error: cannot write" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_bytes() == before
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".jsonl", ".md"]


@pytest.fixture
def under_way(tmp_path):
    """An evaluation in a session of its own with two workers, some of whose answers are written."""
    command = [sys.executable, "-m", "eval", "--model", "nano", "--tasks", "scenes", "--limit", "40"]
    command += ["--processes", "2", "--threads", "1", "--batch-size", "1", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        path = tmp_path / "scenes.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.1)
        yield process, path


@pytest.mark.slow
def test_ctrl_c_lets_worker_processes_finish_their_batch(under_way):
    process, path = under_way
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert 2 <= len(read_predictions(path)[1]) < 40


@pytest.mark.slow
def test_workers_end_with_an_evaluation_that_is_killed(under_way):
    process, _ = under_way
    process.kill()
    process.communicate(timeout=60)  # its pipes are those of the workers, too
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a process of the evaluation is still there")


class Narrow:
    """Has memory for one question at a time, and for no budget but 0 at the question q2."""

    def __init__(self):
        self.calls = 0

    def answer(self, benchmark, examples, conditions):
        self.calls += 1
        if len(examples) > 1 or (examples[0].uid == "q2" and any(c.budget for c in conditions)):
            raise MemoryError("out of memory")
        shared = {"answer": "", "score": 1.0, "group": "", "patches": 0, "recall": None, "seconds": 0.1}
        return [
            Prediction(uid=e.uid, condition=c.key, prediction="x", visual_tokens=1, **shared)
            for e in examples
            for c in conditions
        ]


def test_an_out_of_memory_batch_is_asked_one_by_one(choices):
    conditions = (Condition(0, "saliency"), Condition(8, "prompt"))
    entries = do(Narrow(), choices, Job(indices=(1, 2), conditions=conditions))
    assert [(entry.uid, entry.condition, entry.error) for entry in entries] == [
        ("q1", "low-res", ""),
        ("q1", "prompt-8", ""),
        ("q2", "low-res", ""),
        ("q2", "prompt-8", "MemoryError: out of memory"),
    ]


@dataclass
class Stops:
    """Raises an error of torch."""

    error: Exception

    def answer(self, benchmark, examples, conditions):
        raise self.error


def test_a_gpu_that_is_done_for_ends_the_run(choices):
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("this torch has no AcceleratorError")
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")
    job = Job(indices=(1,), conditions=(Condition(0, "saliency"),))
    with pytest.raises(CannotGoOnError, match="device-side assert triggered\\)"):
        do(Stops(error), choices, job)
    (entry,) = do(Stops(RuntimeError("odd shape")), choices, job)
    assert entry.error == "RuntimeError: odd shape"


def test_a_model_that_fails_everywhere_is_an_error(tiny_folder, choices, tmp_path, capsys):
    assert run(tiny_folder, tmp_path, "--per-scale", "1,2,3,4,5") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: choices: the first 6 answers all failed, q0 with VilaHDError")


def test_a_summary_that_is_no_mean_has_no_interval(choices, tmp_path):
    entry = dict(condition="c", prediction="", answer="", group="", patches=0, visual_tokens=None)
    entries = [Prediction(uid=f"q{i}", score=i / 4, recall=None, seconds=1.0, **entry) for i in range(5)]
    task = Task(benchmark=choices, conditions=(), path=tmp_path, settings={}, limit=5)
    row = score_row(task, Condition(0, "saliency"), entries)
    assert row["low"] < row["score"] == 50 < row["high"]
    assert row["tokens"] is None
    choices.aggregate = max
    row = score_row(task, Condition(0, "saliency"), entries)
    assert (row["score"], row["interval"]) == (100, None)


def test_questions_that_count_together_have_no_interval_even_when_all_are_wrong(choices, tmp_path):
    choices.aggregate = lambda scores: min(scores[:3]) / 2 + min(scores[3:]) / 2
    entry = dict(condition="c", prediction="", answer="", group="", patches=0, visual_tokens=None)
    entries = [Prediction(uid=f"q{i}", score=0.0, recall=None, seconds=1.0, **entry) for i in range(6)]
    task = Task(benchmark=choices, conditions=(), path=tmp_path, settings={})
    row = score_row(task, Condition(0, "saliency"), entries)
    assert (row["score"], row["interval"]) == (0, None)


def test_a_public_benchmark_from_local_files(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "benchmarks.json").read_text())
    file = io.BytesIO()
    tiny_picture(96, 64).save(file, "PNG")
    good = {**recorded["hrbench4k"]["row"], "image": base64.b64encode(file.getvalue()).decode()}
    lines = [
        {**good, "index": 1},
        {**good, "index": 2, "image": "bm90IGEgcGljdHVyZQ=="},
        {**good, "index": 3},
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hrbench_4k.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert run(tiny_folder, tmp_path / "out", "--data", str(tmp_path / "data"), tasks="hrbench4k") == 2
    (row,) = rows(tmp_path / "out")
    assert (row["questions"], row["failed"]) == (3, 1)
    settings, predictions = read_predictions(tmp_path / "out" / "hrbench4k.jsonl")
    assert settings["data"]
    assert [uid for (uid, _), entry in predictions.items() if entry.error] == ["1:2"]


def test_a_sweep_draws_what_it_reports(tiny_folder, choices, tmp_path):
    argv = ["sweep", "--model", str(tiny_folder), "--tasks", "choices", "--out", str(tmp_path)]
    assert main([*argv, "--budgets", "0", "8", "16", "--threads", "1"]) == 0
    assert [row["condition"] for row in rows(tmp_path)] == ["low-res", "prompt-8", "prompt-16"]
    picture = (tmp_path / "sweep.svg").read_text()
    assert picture.count("<circle") == 2 * 3
    assert "visual tokens" in picture
    assert "seconds per sample" in picture


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "none"], "benchmark 'none' is unknown"),
        (["--tasks", ","], "--tasks is empty"),
        (["--limit", "0"], "--limit 0"),
        (["--data", "here"], "--data here: benchmark 'choices' reads no files"),
        (["--per-scale", "1,x"], "--per-scale '1,x'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(more, message, tiny_folder, choices, tmp_path, capsys):
    assert run(tiny_folder, tmp_path, *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "key"), [("textvqa", "textvqa_val"), ("mmmu", "mmmu_val"), ("vstar", "vstar")]
)
def test_short_names(name, key):
    assert full_name(name) == key


def test_an_unknown_name_comes_with_those_that_are_meant():
    with pytest.raises(VilaHDError, match=r"'hrbench' is unknown: use one of hrbench8k, hrbench4k"):
        full_name("hrbench")


def test_list_names_every_benchmark(capsys):
    assert main(["list"]) == 0
    assert "scenes" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_of_torchrun_give_what_one_gives(tiny_folder, tmp_path):
    argv = ["-m", "eval", "--model", str(tiny_folder), "--tasks", "scenes", "--limit", "5"]
    argv += ["--batch-size", "1", "--threads", "1", "--budget", "0", "8"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for starter, out in ((launch, "two"), ([sys.executable], "one")):
        command = [*starter, *argv, "--out", str(tmp_path / out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.count("$ python -m eval") == 1
    answers = []
    for out in ("one", "two"):
        _, entries = read_predictions(tmp_path / out / "scenes.jsonl")
        answers.append({key: (entry.prediction, entry.visual_tokens) for key, entry in entries.items()})
    assert answers[0] == answers[1]
    assert len(answers[0]) == 10
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "report.json", "report.md", "scenes.jsonl",
    ]  # fmt: skip
