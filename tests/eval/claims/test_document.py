"""The document is made of results, says what is missing, and cannot be mistaken for a smoke run's."""

from dataclasses import replace

import pytest

from eval.claims.claim import Check, Finding, Result
from eval.claims.document import Entry, write_document
from eval.claims.runner import CLAIMS
from eval.plots import Chart, Line
from eval.report import Column, Table
from vila_hd.errors import VilaHDError

CLAIM = CLAIMS[0]


def result(low=1.0):
    check = Check(statement="more is better", value=low + 1, low=low, high=low + 2, why="nothing was seen")
    table = Table(columns=(Column(key="a", title="A", spec=".1f"),), rows=({"a": 1.25, "b": None, "c": "x"},))
    chart = Chart(title="t", x="x", y="y", lines=(Line(name="l", points=((1, 2.0), (3, 4.0))),))
    finding = Finding(checks=(check,), tables=(table,), charts=(chart,), notes=("a note",))
    return Result(
        number=CLAIM.number, key="k", finding=finding, minutes=1.5, training_minutes={"pretrain": 7.0},
        facts={"cpu": "a cpu", "cores": 2},
    )  # fmt: skip


def test_results_survive_the_disk(tmp_path):
    path = tmp_path / "claim.json"
    assert Result.read(path) is None
    result().write(path)
    assert Result.read(path) == result()
    path.write_text('{"number": 1}')
    with pytest.raises(VilaHDError, match="remove it, and it is measured again"):
        Result.read(path)


def test_the_document_has_verdict_table_plot_and_time(tmp_path):
    path = tmp_path / "claims.md"
    missing = replace(CLAIM, number=99, title="not there")
    write_document([Entry(claim=CLAIM, result=result()), Entry(claim=missing, result=None)], path)
    text = path.read_text()
    assert "**Reproduced.**" in text
    assert "| more is better | 2.00 points | 1.00 - 3.00 | above 0 | holds |" in text
    assert f"![Plot of the table](claims/claim-{CLAIM.number}.svg)" in text
    assert (tmp_path / "claims" / f"claim-{CLAIM.number}.svg").is_file()
    assert "Trained, minutes of one core: pretrain 7.0." in text
    assert "In all 2 minutes to measure and 7 minutes of one core for 1 trainings" in text
    assert "nothing was seen" not in text
    assert "Not run yet: `python -m eval claims --only 99`" in text
    assert "smoke" not in text


def test_what_does_not_hold_is_explained(tmp_path):
    path = tmp_path / "claims.md"
    write_document([Entry(claim=CLAIM, result=result(low=-5.0))], path, smoke=True)
    text = path.read_text()
    assert "**Not reproduced.**" in text
    assert "- more is better: does not hold; nothing was seen." in text
    assert "No number here means anything" in text
