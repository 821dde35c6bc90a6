import subprocess
import sys

import pytest

from eval.launch import _short_name, main


def test_help_does_not_import_torch():
    code = "import sys; from eval.launch import main; main(sys.argv[1:])"
    code = f"try:\n    {code}\nexcept SystemExit:\n    assert 'torch' not in sys.modules"
    for argv in (["--help"], ["speed", "tower", "--help"]):
        subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["speed", "tower", "--preset", "huge"], "'huge' is unknown"),
        (["speed", "projector", "--preset", "huge"], "'huge' is unknown"),
        (
            ["speed", "tower", "--preset", "tiny-4x", "--peer-python", "/no/python"],
            "/no/python does not exist",
        ),
        (["speed", "tower", "--preset", "tiny-4x", "--looks", "0"], "--looks"),
        (["speed", "tower", "--preset", "tiny-4x", "--threads", "0"], "--threads 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("nano", "nano"),
        ("openai:gpt-4o", "openai-gpt-4o"),
        ("hf:Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B-Instruct"),
        ("/data/my-model/", "my-model"),
        ("runs/baselines/low_res/sft/model", "low_res-sft"),
        ("runs/nano/sft/model/", "nano-sft"),
        ("/data/model", "data"),
        ("/model", "model"),
        ("model", "model"),
        ("..", "model"),
    ],
)
def test_predictions_of_each_model_have_a_folder_of_its_own(model, folder):
    assert _short_name(model) == folder
