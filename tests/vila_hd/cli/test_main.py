"""The command as a whole: exit status, one line of error, Ctrl-C, closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vila_hd import cli
from vila_hd.cli import parsers

ROOT = Path(__file__).resolve().parents[3]


def refused(capsys, *words):
    """The one line on stderr of a command line that must be refused."""
    assert cli.main(list(words)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_no_command_prints_the_help_and_is_an_error(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_every_command_is_in_the_help_and_has_one(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in parsers.COMMANDS:
        assert f"\n  {name} " in text
        with pytest.raises(SystemExit) as caught:
            cli.main([name, "--help"])
        assert caught.value.code == 0
        assert f"vila-hd {name}" in capsys.readouterr().out


def test_unknown_words(capsys):
    assert "unknown command 'aks': use one of ask, chat" in refused(capsys, "aks")
    assert "unknown command '--bogus'" in refused(capsys, "--bogus")


def test_a_missing_argument_names_it(capsys):
    assert "MODEL" in refused(capsys, "info")


@pytest.mark.parametrize("image", ["/no/such/picture.png", "/", "setup.py", "line\nbreak.png"])
def test_a_picture_that_cannot_be_opened(capsys, image):
    line = refused(capsys, "ask", image, "what is it?")
    assert image.split("\n")[0] in line


def test_empty_question(capsys, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert "is empty" in refused(capsys, "ask", str(tmp_path / "a.png"), "  ")


def test_ctrl_c_is_130(capsys, monkeypatch):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["ask"]) == 130


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried 3 GiB\nmore"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"
        ),
    ],
)
def test_too_little_memory_is_one_line(capsys, monkeypatch, error):
    def fail(words):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert "out of memory" in refused(capsys, "ask")


def test_other_errors_of_libraries_are_bugs_and_are_not_hidden(monkeypatch):
    def fail(words):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        cli.main(["ask"])


def test_a_terminal_that_cannot_show_an_answer_gets_escapes():
    program = "from vila_hd.cli.terminal import run_command; run_command(lambda: print('\\u4f60') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.stdout == "\\u4f60\n"


def test_scene_writes_the_picture_and_prints_its_questions(capsys, tmp_path):
    assert cli.main(["scene", "5", str(tmp_path / "s.png")]) == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (3840, 2160)
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_scene_refuses_what_it_cannot_write(capsys, tmp_path):
    assert "ends in .png" in refused(capsys, "scene", "5", str(tmp_path / "s.jpg"))
    assert "cannot write" in refused(capsys, "scene", "5", str(tmp_path / "missing" / "s.png"))
    assert "'-5'" in refused(capsys, "scene", "--", "-5", "s.png")


def test_a_real_process_ends_with_status_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "vila_hd.cli", "ask", "/no/such.png", "what?"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: /no/such.png: no such file; check the name\n"


def test_a_closed_pipe_is_not_an_error():
    program = f"{sys.executable} -m vila_hd.cli --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr
