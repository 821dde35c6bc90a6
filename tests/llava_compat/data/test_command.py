"""``python -m llava_compat.data``: what it prints, and its exit status."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_compat.data import command

ROOT = Path(__file__).resolve().parents[3]
BOX = {"q": "q", "a": "A", "image": "a.png", "box": [0, 0, 41, 30], "id": "out"}
GOOD = {"q": "What is it?", "a": "A wall.", "image": "a.png", "id": "good"}


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    status = command.main([str(word) for word in words])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_a_good_set(
    capsys: Any, write_jsonl: Callable[..., Path], media: Path, llava_row: dict[str, Any]
) -> None:
    path = write_jsonl([llava_row, GOOD, {**GOOD, "box": [1, 2, 3, 4]}])
    status, out, err = run(capsys, "check", path, "--media", media)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        str(path),
        "rows      3 (0 with problems)",
        "answers   3",
        "images    3",
        "boxes     1",
        "text      57 characters",
        "problems  none",
    ]


def test_problems_are_grouped_and_counted(capsys: Any, write_jsonl: Callable[..., Path], media: Path) -> None:
    missing = {**GOOD, "image": "z.png"}
    path = write_jsonl([GOOD, *[missing] * 5, BOX, 7])
    status, out, _ = run(capsys, "check", path, "--media", media)
    assert status == 1
    assert "rows      8 (7 with problems)" in out
    assert "  image missing: 5\n" in out
    assert out.count("there is no file") == 3
    assert "    ... and 2 more (--json lists 100)" in out
    assert f"    {path}:7 (row 6): sample 'out': box [0.0, 0.0, 41.0, 30.0] lies outside of a.png" in out
    assert run(capsys, "check", path, "--media", media, "--limit", 1)[0] == 0
    status, out, _ = run(capsys, "check", path, "--media", media, "--no-images", "--json")
    assert (status, json.loads(out)["problems"].keys()) == (1, {"form"})


def test_json_for_programs(capsys: Any, write_jsonl: Callable[..., Path], media: Path) -> None:
    path = write_jsonl([GOOD, BOX])
    status, out, _ = run(capsys, "check", path, "--media", media, "--json", "--model", "nano")
    values = json.loads(out)
    assert status == 1
    assert (values["rows"], values["rows_with_problems"], values["images"]) == (2, 1, 1)
    assert values["problems"]["box"]["count"] == 1
    assert "sample 'out'" in values["problems"]["box"]["first"][0]
    assert values["tokens"]["longest_row"] > 64
    assert 0 < values["tokens"]["learned"] < values["tokens"]["text"] < 64


def test_damage_behind_the_header_needs_decoding(
    capsys: Any, write_jsonl: Callable[..., Path], tmp_path: Path, media: Path
) -> None:
    (tmp_path / "cut.png").write_bytes((media / "a.png").read_bytes()[:60])
    path = write_jsonl([{**GOOD, "image": "cut.png"}])
    assert run(capsys, "check", path)[0] == 0
    status, out, _ = run(capsys, "check", path, "--decode")
    assert (status, "image broken: 1" in out) == (1, True)


def test_rows_that_a_template_refuses(capsys: Any, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(
        [{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}]
    )
    assert run(capsys, "check", path, "--model", "nano", "--template", "vicuna_v1")[0] == 0
    status, _, err = run(capsys, "check", path, "--model", "nano", "--template", "new")
    assert (status, "template 'new': use one of" in err) == (2, True)


def test_strict_and_conventions(
    capsys: Any, write_jsonl: Callable[..., Path], media: Path, llava_row: dict[str, Any]
) -> None:
    path = write_jsonl([{**llava_row, "model": "x"}])
    assert run(capsys, "check", path, "--media", media)[0] == 0
    status, out, _ = run(capsys, "check", path, "--media", media, "--strict")
    assert (status, "unknown key(s) ['model']" in out) == (1, True)
    _, out, _ = run(capsys, "show", path, 0, "--media", media, "--convention", "legacy")
    assert "user: <image>\nWhat is shown?" in out


def test_registries(capsys: Any, write_jsonl: Callable[..., Path], media: Path, tmp_path: Path) -> None:
    write_jsonl([GOOD, GOOD])
    (tmp_path / "sets.yaml").write_text(
        f"a: {{data_path: rows.jsonl, media_dir: '{media}'}}\nb: {{data_path: x.csv}}\n"
    )
    status, out, _ = run(capsys, "check", tmp_path / "sets.yaml", "--mixture", "a*3")
    assert (status, "rows      6 (0 with problems)" in out) == (0, True)
    (tmp_path / "x.csv").touch()
    status, _, err = run(capsys, "check", tmp_path / "sets.yaml")
    assert (status, "unknown kind of file" in err) == (2, True)


def test_showing_a_row(capsys: Any, write_jsonl: Callable[..., Path], media: Path) -> None:
    path = write_jsonl([BOX, GOOD])
    status, out, _ = run(capsys, "show", path, 0, "--media", media)
    assert status == 0
    assert out.splitlines() == [
        f"{path}:1 (row 0)  id 'out'",
        "image 0: a.png, 40 x 30, box 0, 0, 41, 30",
        "",
        "user: <image>q",
        "assistant: A",
    ]


def test_showing_what_is_learned(capsys: Any, write_jsonl: Callable[..., Path], media: Path) -> None:
    path = write_jsonl([GOOD])
    status, out, _ = run(capsys, "show", path, 0, "--media", media, "--model", "nano")
    assert status == 0
    assert "<|user|>\n<image>What is it?<|end|>\n<|assistant|>\n[[A wall.<|end|>]]\n" in out
    assert "64 low-resolution tokens per image" in out


def test_text_cannot_steer_the_terminal(capsys: Any, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"q": "a\x1b[2J\u202eb", "a": "c\rd", "id": "\x1b[1m"}])
    for words in ([], ["--model", "nano"]):
        _, out, _ = run(capsys, "show", path, 0, *words)
        assert not {"\x1b", "\r", "\u202e"} & set(out)
        assert "a\\x1b[2J\\u202eb" in out


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour_only_where_it_is_wanted(
    capsys: Any, no_color: str, write_jsonl: Callable[..., Path], media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = run(capsys, "show", write_jsonl([GOOD]), 0, "--media", media, "--model", "nano")
    assert ("[[A wall.<|end|>]]" if no_color else "\x1b[32mA wall.<|end|>\x1b[0m") in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["lint"], "lint"),
        (["check"], "PATH"),
        (["check", "no.json"], "no.json: no such file"),
        (["check", "empty.json"], "empty.json: no rows to check"),
        (["check", "rows.csv"], "unknown kind of file"),
        (["check", "rows.jsonl", "--limit", "-1"], "use a whole number >= 0"),
        (["check", "rows.jsonl", "--mixture", "a"], "need a registry .yaml"),
        (["check", "rows.jsonl", "--media", "nowhere"], "there is no such folder"),
        (["check", "rows.jsonl", "--template", "v1"], "--template needs --model"),
        (["check", "rows.jsonl", "--model", "./nowhere"], "./nowhere: no such folder"),
        (["check", "rows.jsonl", "--model", "."], "its processor cannot be read"),
        (["show", "rows.jsonl", "1"], "has no row 1: count from 0"),
        (["show", "rows.jsonl", "one"], "use a whole number >= 0"),
    ],
)
def test_what_to_mend_on_the_command_line(
    capsys: Any,
    words: list[str],
    message: str,
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(write_jsonl([GOOD]).parent)
    for name in ("rows.csv", "empty.json"):
        Path(name).touch()
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_broken_row_to_show_is_a_problem_of_the_data(capsys: Any, write_jsonl: Callable[..., Path]) -> None:
    status, _, err = run(capsys, "show", write_jsonl([GOOD, {"q": "a"}]), 1)
    assert (status, "(row 1): sample '1': a: expected a text, got None" in err) == (1, True)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, write_jsonl: Callable[..., Path]) -> None:
    def interrupt(args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "iterate_set", interrupt)
    assert command.main(["check", str(write_jsonl([]))]) == 130


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"], ["show", "--help"]])
def test_help_needs_no_torch(words: list[str]) -> None:
    program = f"""
import contextlib, io, sys
from llava_compat.data.command import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main({words})
assert "PATH" in out.getvalue() or "COMMAND" in out.getvalue()
assert not {{"torch", "transformers", "pyarrow", "datasets", "yaml"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_checking_needs_no_torch(write_jsonl: Callable[..., Path], media: Path) -> None:
    words = ["check", str(write_jsonl([GOOD])), "--media", str(media)]
    program = f"""
import sys
from llava_compat.data.command import main
assert main({words}) == 0
assert not {{"torch", "transformers", "pyarrow"}} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120, stdout=subprocess.DEVNULL
    )
