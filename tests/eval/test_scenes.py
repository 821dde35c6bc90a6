import json

import pytest

from eval.conditions import Condition
from eval.launch import main
from eval.report import wilson_interval
from eval.scenes import condition_row, sweep_table
from eval.store import Prediction
from vila_hd.testing import tiny_model, tiny_processor


def predictions(right, wrong, *, recall):
    shared = {"condition": "c", "answer": "a", "group": "g", "patches": 8, "visual_tokens": 6, "seconds": 0.5}
    return [
        Prediction(uid=str(i), prediction="", score=float(i < right), recall=recall, **shared)
        for i in range(right + wrong)
    ]


def test_a_row_holds_shares_in_percent_and_the_interval():
    row = condition_row(Condition(8, "prompt"), predictions(3, 1, recall=0.5))
    assert (row["accuracy"], row["recall"], row["questions"]) == (75.0, 50.0, 4)
    assert (row["low"], row["high"]) == tuple(100 * bound for bound in wilson_interval(3, 4))
    assert "75.0" in sweep_table([row]).text()


def test_without_budget_there_is_no_recall_and_no_guide():
    row = condition_row(Condition(0, "saliency"), predictions(1, 1, recall=0.0))
    assert row["recall"] is None
    assert "low resolution only" in row["guided_by"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def run(folder, out, *more):
    argv = ["scenes", "--model", str(folder), "--out", str(out), "--count", "3", "--batch-size", "2"]
    argv += ["--budget", "0", "16", "--guided-by", "prompt", "random", "--threads", "1", *more]
    return main(argv)


@pytest.mark.slow
def test_main_answers_once_resumes_and_reports(folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert run(folder, tmp_path / "out", "--json", str(report)) == 0
    first = capsys.readouterr().out
    assert "$ python -m eval scenes --model" in first
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3 * 3
    rows = json.loads(report.read_text())["tables"][0]["rows"]
    assert [row["questions"] for row in rows] == [3, 3, 3]
    assert [row["patches"] for row in rows] == [0, 16, 16]

    (tmp_path / "out" / "predictions.jsonl").write_text("\n".join(lines[:4]) + "\n")
    assert run(folder, tmp_path / "out", "--json", str(report)) == 0
    again = [
        json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[1:]
    ]
    assert {(row["uid"], row["condition"]): row["prediction"] for row in again} == {
        (row["uid"], row["condition"]): row["prediction"] for row in map(json.loads, lines[1:])
    }


@pytest.mark.slow
def test_two_processes_give_the_same_predictions(folder, tmp_path):
    answers = []
    for processes in ("1", "2"):
        assert run(folder, tmp_path / processes, "--processes", processes) == 0
        lines = (tmp_path / processes / "predictions.jsonl").read_text().splitlines()[1:]
        answers.append(
            {(r["uid"], r["condition"]): (r["prediction"], r["recall"]) for r in map(json.loads, lines)}
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "/no/model"], "/no/model"),
        (["--budget", "lots"], "--budget 'lots'"),
        (["--guided-by", "luck"], "--guided-by 'luck'"),
        (["--tier", "rune"], "--tier 'rune'"),
        (["--batch-size", "0"], "--batch-size 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(more, message, tmp_path, capsys):
    assert run("nano", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
