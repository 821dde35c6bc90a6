import json
import sys
from pathlib import Path

import pytest

from eval.launch import main
from eval.speed.presets import get_preset
from eval.speed.tower import (
    Measurement,
    TowerRun,
    main_table,
    profile_table,
    require_peer,
    require_same_work,
    resolution_table,
    table_row,
)
from vila_hd.errors import VilaHDError

HIGH, LOW = get_preset("tiny-4x"), get_preset("tiny-2x")


def measured(seconds, *, peak=3_000_000, tokens=48, check=1.0):
    return Measurement(
        seconds=seconds, cpu_seconds=2 * seconds, baseline_bytes=1_000_000, peak_bytes=peak, tokens=tokens,
        check=check, profile={"linear layers": 3.0, "other": 1.0},
    )  # fmt: skip


def test_ratios_of_a_row_follow_from_its_numbers():
    row = table_row(HIGH, 1, {"ours": measured(2.0), "peer": measured(3.0, peak=5_000_000)})
    assert row["speedup"] == row["cpu_ratio"] == 1.5
    assert row["peak_ratio"] == 3 / 5
    assert row["added_ratio"] == 2 / 4
    assert row["ours_gflops"] == pytest.approx(HIGH.flops(1) / 2.0 / 1e9)


def test_without_a_peer_there_are_no_peer_columns():
    table = main_table([table_row(HIGH, 1, {"ours": measured(2.0)})], with_peer=False)
    assert not any("peer" in column.key + column.title for column in table.columns)


def test_profile_is_scaled_to_the_measured_seconds():
    ours, bound = profile_table(HIGH, {"ours": measured(2.0)}, gflops=100.0).rows
    assert (ours["all"], ours["linear layers"], ours["other"]) == (2.0, 1.5, 0.5)
    assert bound["all"] == pytest.approx(HIGH.flops(1) / 1e11)


def test_cost_against_resolution_compares_one_look_of_both_presets():
    rows = [
        table_row(HIGH, 1, {"ours": measured(1.1), "peer": measured(2.8)}),
        table_row(HIGH, 6, {"ours": measured(9.0), "peer": measured(9.0)}),
        table_row(LOW, 1, {"ours": measured(1.0), "peer": measured(2.0)}),
    ]
    ratios = {row["who"]: row["ratio"] for row in resolution_table(rows, LOW, HIGH).rows}
    assert ratios == {"ours": pytest.approx(1.1), "peer": pytest.approx(1.4)}


@pytest.mark.parametrize("other", [measured(1.0, tokens=49), measured(1.0, check=1.1)])
def test_different_work_is_not_compared(other):
    with pytest.raises(VilaHDError, match=r"not comparable|not the same weights"):
        require_same_work({"ours": measured(1.0), "peer": other})


def test_an_interpreter_without_the_peer_is_refused(tmp_path):
    with pytest.raises(VilaHDError, match=r"has no package ps3-torch: .*ps3-torch==0\.1\.3"):
        require_peer(Path(sys.executable))
    (tmp_path / "python").write_text("no program")
    with pytest.raises(VilaHDError, match="does not run"):
        require_peer(tmp_path / "python")


def test_an_interpreter_with_another_version_of_the_peer_is_refused(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 0.1.0\n")
    other.chmod(0o755)
    with pytest.raises(VilaHDError, match=r"has ps3-torch 0\.1\.0"):
        require_peer(other)


def test_no_looks_are_refused():
    with pytest.raises(VilaHDError, match="--looks"):
        TowerRun(preset="tiny-4x", looks=())


@pytest.mark.slow
def test_main_measures_a_tiny_tower(capsys, tmp_path):
    argv = ["speed", "tower", "--preset", "tiny-4x", "--dtype", "float32", "--looks", "1", "--threads", "1"]
    assert main([*argv, "--runs", "1", "--json", str(tmp_path / "out.json")]) == 0
    assert "$ python -m eval speed tower --preset tiny-4x" in capsys.readouterr().out
    table, profile, resolution = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert [row["preset"] for row in table["rows"]] == ["tiny-4x", "tiny-2x"]
    for row in table["rows"]:
        assert row["tokens"] == 16 + HIGH.pass_budget
        assert row["ours_peak"] >= row["ours_added"] > 0
    high, low = table["rows"]
    assert profile["rows"][0]["all"] == high["ours_seconds"]
    assert resolution["rows"][0]["ratio"] == pytest.approx(high["ours_seconds"] / low["ours_seconds"])
