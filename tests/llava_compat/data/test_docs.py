"""Everything that docs/data.md shows is run: files, commands with their output, and Python."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from llava_compat.data import command
from llava_compat.data.problems import Kind

TEXT = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: ([\w.]+))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the document and its pictures, as the working directory."""
    for name, size in (("street.png", (640, 360)), ("sign.png", (80, 60))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    for _, name, content in BLOCKS:
        if name:
            (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", [content for kind, _, content in BLOCKS if kind == "console"])
def test_commands_print_what_is_shown(block: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, _, expected = block.partition("\n")
    words = shlex.split(line)
    assert words[:4] == ["$", "python", "-m", "llava_compat.data"]
    status = command.main(words[4:])
    assert capsys.readouterr().out == expected.replace("{folder}", str(folder))
    assert status == int("sample '" in expected)


def test_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for kind, _, content in BLOCKS:
        if kind == "python":
            exec(content, names)
    assert capsys.readouterr().out.startswith("1 [(640, 360)] ")


@pytest.mark.parametrize(
    "words", [["chats.jsonl"], ["boxes.jsonl"], ["sets.yaml", "--mixture", "both"], ["llava.json"]]
)
def test_every_file_is_a_good_set(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["check", *words]) == 0
    assert "problems  none" in capsys.readouterr().out


def test_every_group_of_problems_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z ]+)` \|", TEXT.split("## Problems")[1], re.MULTILINE)
    assert sorted(explained) == sorted(get_args(Kind))
