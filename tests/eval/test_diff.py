import json
from dataclasses import replace

import pytest

from eval.launch import main
from eval.store import Prediction, PredictionFile

ONE = Prediction(
    uid="", condition="prompt-auto", prediction="", answer="A", score=0.0, group="", patches=0,
    visual_tokens=1, recall=None, seconds=0.1,
)  # fmt: skip


def write(path, scores, *, condition="prompt-auto", data="r1"):
    with PredictionFile(path, settings={"task": "choices", "data": data, "model": str(path)}) as file:
        file.add(
            replace(ONE, uid=f"q{i}", score=score, condition=condition, prediction="A" if score else "B | C")
            for i, score in enumerate(scores)
        )
    return path


def diff(tmp_path, a, b, *more):
    status = main(["diff", str(a), str(b), "--json", str(tmp_path / "d.json"), *more])
    return status, json.loads((tmp_path / "d.json").read_text())["tables"] if status == 0 else None


def test_flips_and_their_test(tmp_path, capsys):
    a = write(tmp_path / "a" / "choices.jsonl", [0, 0, 0, 0, 0, 1, 1, 0])
    b = write(tmp_path / "b" / "choices.jsonl", [1, 1, 1, 1, 1, 0, 1])
    status, (summary, flips) = diff(tmp_path, a.parent, b.parent, "--markdown")
    assert status == 0
    (row,) = summary["rows"]
    assert (row["questions"], row["only_one"], row["better"], row["worse"]) == (7, 1, 5, 1)
    assert row["change"] == pytest.approx(100 * 4 / 7)
    assert row["p"] == pytest.approx(2 * 7 / 64)
    assert [flip["uid"] for flip in flips["rows"]] == ["q0", "q1", "q2", "q3", "q4", "q5"]
    assert flips["rows"][0]["a"] == "B | C"
    assert r"| B \| C |" in capsys.readouterr().out


def test_single_files_with_one_condition_each(tmp_path):
    a = write(tmp_path / "a.jsonl", [0, 1], condition="low-res")
    b = write(tmp_path / "b.jsonl", [1, 1], condition="own")
    _, (summary, flips) = diff(tmp_path, a, b)
    assert summary["rows"][0]["looks"] == "low-res / own"
    assert len(flips["rows"]) == 1


def test_show_limits_the_flips(tmp_path):
    a = write(tmp_path / "a.jsonl", [0] * 5)
    b = write(tmp_path / "b.jsonl", [1] * 5)
    assert len(diff(tmp_path, a, b, "--show", "2")[1][1]["rows"]) == 2
    assert len(diff(tmp_path, a, b, "--show", "0")[1][1]["rows"]) == 5


def test_other_data_are_not_compared(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", [0, 1])
    b = write(tmp_path / "b.jsonl", [1], data="r2")
    assert main(["diff", str(a), str(b)]) == 2
    assert "data is 'r1' and 'r2'" in capsys.readouterr().err


def test_a_folder_without_predictions_is_one_line(tmp_path, capsys):
    assert main(["diff", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no *.jsonl" in capsys.readouterr().err


def test_several_conditions_that_differ_must_be_named(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", [0, 1], condition="low-res")
    write(a, [1, 1], condition="prompt-8")
    b = write(tmp_path / "b.jsonl", [1, 1], condition="own")
    assert main(["diff", str(a), str(b)]) == 2
    assert "--conditions A B" in capsys.readouterr().err
    assert main(["diff", str(a), str(b), "--conditions", "prompt-8", "own"]) == 0
