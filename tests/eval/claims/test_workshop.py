"""Answers are kept and asked once; a question without an answer is no wrong answer."""

import pytest

from eval.claims.workshop import SMOKE, Workshop
from eval.conditions import Condition
from vila_hd.errors import VilaHDError

LOW = Condition(0, "saliency")


def workshop(folder):
    return Workshop(out=folder, effort=SMOKE, cores=1)


def test_answers_are_kept(tiny_folder, tmp_path, monkeypatch):
    shop = workshop(tmp_path)
    benchmark = shop.scenes(count=1)
    first = shop.answers(str(tiny_folder), benchmark, [LOW])
    assert [len(entries) for entries in first.values()] == [4]
    monkeypatch.setattr("eval.subjects.ModelSpec.open", lambda spec: pytest.fail("asked again"))
    assert shop.answers(str(tiny_folder), benchmark, [LOW]) == first
    assert benchmark.size == (960, 960)
    assert {entry.group for entry in first[LOW.key]} == {"texture"}


def test_where_questions_are_kept_apart(tmp_path):
    marks, places = (workshop(tmp_path).scenes(kind, count=1) for kind in ("mark", "where"))
    assert marks.example(0).uid == places.example(0).uid
    assert marks.example(0).prompt != places.example(0).prompt
    assert places.example(0).answers[0] in {f"{row} {column}".replace("middle middle", "middle")
        for row in ("top", "middle", "bottom") for column in ("left", "middle", "right")}  # fmt: skip


def test_a_failed_question_ends_the_measurement(tiny_folder, tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("too large")

    monkeypatch.setattr("eval.answering.Answerer._count", broken)
    with pytest.raises(VilaHDError, match="too large"):
        workshop(tmp_path).answers(str(tiny_folder), workshop(tmp_path).scenes(count=1), [LOW])
