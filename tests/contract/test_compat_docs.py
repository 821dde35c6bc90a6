"""docs/compat.md says what is there: every quirk, tests that exist, all flags and variables."""

import ast
import re
from pathlib import Path

from llava_compat.environment import VARIABLES
from llava_compat.infer import build_parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
QUIRKS = 48


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}")[1].split("\n## ")[0]


def test_every_quirk_has_a_row():
    assert [int(number) for number, *_ in ROWS] == list(range(1, QUIRKS + 1))


def test_every_named_test_exists():
    named = [re.findall(r"`([\w/.]+)::(\w+)`", row[-1]) for row in ROWS]
    # A row without a test is about something that is not here.
    without = [int(row[0]) for row, tests in zip(ROWS, named, strict=True) if not tests]
    assert without == [26, 43, 44]
    for path, name in {test for tests in named for test in tests}:
        tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, f"tests/{path} has no {name}"


def test_tests_of_a_quirk_are_named_after_its_number():
    for number, *_, test in ROWS:
        numbered = re.findall(r"test_(?:ps3_)?quirks\.py::test_(\d+)(?:_and_(\d+))?_", test)
        assert not numbered or number in numbered[0], test


def test_files_that_are_named_exist():
    for name in re.findall(r"(?<![\w/])((?:docs|tests)/[\w/.]+\.(?:py|md))", TEXT):
        assert (ROOT / name).exists(), name


def test_all_flags_and_variables_are_listed():
    text = section("`llava_compat.infer`")
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert flags - {"-h", "--help"} == set(re.findall(r"`(--?[a-z][\w-]*)`", text))
    assert set(VARIABLES) == set(re.findall(r"`([A-Z_]{6,})`", text)) - {"FOLDER"}


def test_the_readme_leads_here():
    assert "docs/compat.md" in (ROOT / "README.md").read_text(encoding="utf-8")
