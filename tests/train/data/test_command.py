"""The samples of a stage as people look at them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from train.data.command import main
from vila_hd.testing import tiny_config, tiny_processor


@pytest.fixture
def stage_file(folder: Path, rows, make_dataset) -> Path:
    make_dataset(rows)  # writes rows.jsonl
    tiny_config().save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    values = {
        "name": "rows",
        "stage": "sft",
        "model": str(folder / "model"),
        "trainable": ["llm"],
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "optim": {"lr": 1e-3},
        "looks": {"per_scale": [16, 64]},
        "data": {"sources": [{"path": str(folder / "rows.jsonl"), "convention": "interleaved"}]},
    }
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_samples_are_shown_as_they_are_learned(stage_file, capsys):
    assert main(["--config", str(stage_file), "0", "1", "2", "3"]) == 0
    shown = capsys.readouterr().out
    assert "id 'many'" in shown
    assert "picture 2: 2.png, 128 x 128, read as 128 x 128" in shown
    assert "boxes [32.0, 16.0, 64.5, 48.0]" in shown
    assert "<|im_start|>assistant\n[[That is all.<|im_end|>]]" in shown
    assert "[[Equal.<|im_end|>]]\n<|im_start|>user\nAnd <image>\n?" in shown.replace(" ?", "\n?")
    assert "up to 69 of 4096 with high-resolution ones" in shown


def test_canvas_is_written_with_its_box(stage_file, folder, capsys):
    Image.new("RGB", (90, 60), (0, 0, 255)).save(folder / "0.png")
    rows = f"{{path: {folder / 'one.jsonl'}, canvas: {{side: [400, 500], picture_side: [100, 120]}}}}"
    (folder / "one.jsonl").write_text('{"q": "What?", "a": "Blue.", "image": "0.png"}')
    overrides = ["--set", f"data.sources=[{rows}]"]
    assert main(["--config", str(stage_file), "0", "--out", str(folder / "out"), *overrides]) == 0
    shown = np.asarray(Image.open(folder / "out" / "sample0_0.png")).astype(int)
    assert shown.shape[:2] == (128, 128)
    blue = (shown == (0, 0, 255)).all(-1)
    red = (shown == (255, 0, 0)).all(-1)
    # The frame goes around the picture.
    assert red.any()
    rows_of, columns_of = (np.nonzero(blue.any(axis))[0] for axis in (1, 0))
    framed = [np.nonzero(red.any(axis))[0] for axis in (1, 0)]
    assert abs(framed[0].min() - rows_of.min()) <= 2
    assert abs(framed[1].max() - columns_of.max()) <= 2
    assert "boxes [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["99"], "sample 99: the stage has samples 0 to 7"),
        (["0", "--set", "data.sources=[]"], "no data.sources"),
        (["0", "--set", "model=nowhere"], "nowhere is no complete model"),
        (
            ["0", "--set", "data.max_length=5000"],
            "data.max_length=5000: the language model reads 4096 tokens",
        ),
        (["0", "--set", "data.max_length=20"], "none of its first 4 row"),
        (["0", "--set", "selection.resolution=scales"], "their grids differ"),
        (["x"], "invalid int value"),
        (
            ["0", "--set", "data.sources=[{path: a.yaml, media: b}]"],
            "a registry's entries say where pictures",
        ),
        (["0", "--set", "data.sources=[{path: a.json, mixture: b}]"], "need a registry .yaml"),
        (["0", "--set", "data.sources=[{path: a.json, rate: 0}]"], "rate=0.0: use a number above 0"),
        (["0", "--set", "data.sources=[{path: a, weight: 1}, {path: b}]"], "give all or none"),
        (["0", "--set", "stage=ps3_pretrain"], "ps3_pretrain learns from regions"),
        (["0", "--set", "stage=select"], "set selection.bottom_up_weight=0"),
    ],
)
def test_bad_input_is_one_line(stage_file, arguments, message, capsys):
    assert main(["--config", str(stage_file), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
