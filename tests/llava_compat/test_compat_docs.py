"""The commands and programs of docs/compat.md, with a recorded model in place of the published ones."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llava_compat import convert, infer
from vila_hd import cli
from vila_hd.testing import tiny_picture

TEXT = (Path(__file__).parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
PROGRAMS = [block for kind, block in BLOCKS if kind == "python"]
HUB_NAME = "nvidia/VILA-HD-8B-PS3-1.5K-SigLIP"
MAINS = {
    "vila-hd": cli.main,
    "python -m llava_compat.convert": convert.main,
    "python -m llava_compat.infer": infer.main,
}


@pytest.fixture
def place(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Any) -> Path:
    """A working directory with everything that the page names."""
    # Short answers, whatever a command asks for.
    edit(published / "llm" / "tokenizer_config.json", model_max_length=160)
    published.rename(tmp_path / "FOLDER")
    tiny_picture(60, 40).save(tmp_path / "street.png")
    lora = tmp_path / "LORA"
    lora.mkdir()
    (lora / "config.json").write_bytes((tmp_path / "FOLDER" / "config.json").read_bytes())
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}')
    name = "base_model.model.llm.model.layers.0.self_attn.q_proj"
    parts = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(64, 2)}
    save_file(parts, lora / "adapter_model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = []
    for line in COMMANDS:
        words = shlex.split(line.replace(HUB_NAME, "FOLDER"), comments=True)
        main = next(
            (main for start, main in MAINS.items() if words[: len(start.split())] == start.split()), None
        )
        if main is None:
            assert words[:3] == ["python", "-m", "pytest"], line
            continue
        arguments = words[1:] if main is cli.main else words[3:]
        if arguments[:1] == ["doctor"]:  # also judges the installation: that is its own test
            continue
        if arguments[:1] == ["ask"]:
            arguments += ["--max-new-tokens", "4"]
        assert main(arguments) == 0, f"{line}: {capsys.readouterr().err}"
        run.append(arguments[0])
    assert len(run) >= 7
    assert {"OURS", "PUBLISHED", "TOWER", "MERGED"} <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_programs_work(number: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(PROGRAMS[number].replace(HUB_NAME, "FOLDER"), {})
    assert capsys.readouterr().out.endswith("\n")
    assert (place / "published").exists() == ("save_checkpoint" in PROGRAMS[number])


def test_there_are_programs() -> None:
    assert len(PROGRAMS) == 2
