import json

import pytest

from eval.report import Column, Report, Table, command_line, machine_facts, wilson_interval
from vila_hd.errors import VilaHDError

TABLE = Table(
    title="numbers",
    columns=(
        Column(key="name", title="name"),
        Column(key="x", title="x", spec=".2f"),
        Column(key="y", title="y"),
    ),
    rows=({"name": "a", "x": 1.0, "y": 3}, {"name": "longer", "x": 12.345, "y": None}),
)


def test_text_is_aligned_and_none_is_a_dash():
    title, *lines = TABLE.text().splitlines()
    assert title == "numbers"
    assert [line.split() for line in lines[2:]] == [["a", "1.00", "3"], ["longer", "12.35", "-"]]
    assert len({line.rindex(end) for line, end in zip(lines[2:], ("1.00", "12.35"), strict=True)}) == 2
    assert {len(line) for line in lines} == {len(lines[0])}


def test_markdown_has_a_row_per_row():
    lines = TABLE.markdown().splitlines()
    assert lines[2:] == ["| name | x | y |", "|---|---|---|", "| a | 1.00 | 3 |", "| longer | 12.35 | - |"]


def test_an_empty_table_shows_its_head():
    empty = Table(columns=TABLE.columns, rows=())
    assert empty.text().splitlines()[0].split() == ["name", "x", "y"]


def test_report_starts_with_the_command_that_repeats_it():
    command = command_line(["scenes", "--model", "my model"])
    report = Report(command=command, facts={"threads": 2}, tables=(TABLE,), notes=("why",))
    assert command == "python -m eval scenes --model 'my model'"
    assert report.text().startswith(f"$ {command}\n")
    assert command in report.markdown()
    assert report.text().endswith("why")


def test_json_holds_the_unrounded_rows(tmp_path):
    report = Report(command="c", facts=machine_facts(), tables=(TABLE,))
    report.write_json(tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["tables"][0]["rows"][1] == {"name": "longer", "x": 12.345, "y": None}
    assert saved["facts"]["torch"]


def test_json_into_a_missing_folder_is_one_line(tmp_path):
    report = Report(command="c", facts={}, tables=())
    with pytest.raises(VilaHDError, match=r"cannot write .*--json"):
        report.write_json(tmp_path / "no" / "out.json")


@pytest.mark.parametrize("trials", [1, 2, 44, 200])
def test_wilson_interval_holds_the_share_and_stays_in_bounds(trials):
    for successes in range(trials + 1):
        low, high = wilson_interval(successes, trials)
        assert 0 <= low <= successes / trials <= high <= 1
        assert low < high


def test_wilson_interval_solves_its_own_equation():
    # The bounds p are where the observed share is z standard errors of p away from p.
    share, trials, z = 37 / 120, 120, 1.959964
    for bound in wilson_interval(37, trials):
        assert abs(share - bound) == pytest.approx(z * (bound * (1 - bound) / trials) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("pair", [(1, 0), (3, 2), (-1, 2)])
def test_wilson_interval_rejects_impossible_counts(pair):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*pair)
