"""``vila-hd doctor``: a report, and status 2 when something is broken."""

import json

import pytest

from vila_hd import cli, doctor
from vila_hd.checkpoint_files import Finding


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Importing every optional package takes long and is tested elsewhere."""
    monkeypatch.setattr(doctor, "check_optional", lambda: [Finding("ok", "peft", "1.0")])


def test_a_good_folder_is_fine(capsys, good_folder):
    assert cli.main(["doctor", str(good_folder)]) == 0
    text = capsys.readouterr().out
    assert f"model {good_folder}" in text
    assert "BAD" not in text


def test_a_damaged_folder_is_status_2(capsys, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert cli.main(["doctor", str(folder)]) == 2
    output = capsys.readouterr()
    assert "BAD" in output.out
    assert output.err == "error: 1 problem(s) found: see the lines marked BAD\n"


def test_json_is_a_report_by_section(capsys, good_folder):
    assert cli.main(["doctor", str(good_folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"installation", "required packages", "devices and kernels"} <= set(report)
    assert report["optional packages"] == [{"level": "ok", "topic": "peft", "text": "1.0", "fix": ""}]
