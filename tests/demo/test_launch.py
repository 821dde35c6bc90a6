"""The command: mistakes are one line before anything slow happens."""

import os
import signal
import subprocess
import sys

import pytest

from demo.launch import bind, main, make_parser
from demo.pictures import Limits


def test_every_limit_is_an_option_with_its_default():
    args = vars(make_parser().parse_args([]))
    named = {name.removeprefix("max_"): value for name, value in args.items() if name.startswith("max_")}
    assert named == {name: getattr(Limits(), name) for name in named}
    assert len(named) == 7
    assert args["host"] == "127.0.0.1"


def test_a_taken_port_is_named(capsys):
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"error: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--port", "many"], ["--port", "65536"], ["--host", "256.0.0.1"], ["--max-pages", "x"], ["--what"]],
)
def test_mistakes_end_with_status_2_and_one_line(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_file_is_left_behind(tmp_path, number):
    command = [sys.executable, "-m", "demo", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), line
        assert list(tmp_path.glob("vila-hd-demo-*/sessions/*/*"))
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert list(tmp_path.glob("vila-hd-demo-*")) == []


def test_without_gradio_the_extra_is_named():
    program = (
        "import sys; sys.modules['gradio'] = None\n"
        "from demo.launch import main\n"
        "sys.exit(main(['--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "pip install 'vila-hd[demo]'" in done.stderr
