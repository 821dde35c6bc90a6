"""docs/serving.md: its commands are understood, and its example runs."""

import json
import re
import shlex
from pathlib import Path

import pytest

import vila_hd
from eval.launch import build_parser as eval_parser
from eval.speed.serving import ServeRun
from vila_hd.cli.__main__ import main
from vila_hd.cli.parsers import command_parser
from vila_hd.serving.protocol import ChatRequest, HighRes

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.strip().splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "vila-hd":
        command_parser(words[1]).parse_args(words[2:])
    elif words[:3] == ["python", "-m", "eval"]:
        args = eval_parser().parse_args(words[3:])
        if args.ways:
            ServeRun(ways=tuple(args.ways))
    else:  # run in test_transformers_serve.py; read in test_container.py; make setup does the last
        assert words[0] in ("transformers", "docker", "pip")


def test_the_agent_starts_a_command_that_exists():
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    started = json.loads(block)["mcpServers"]["vila-hd"]
    assert started["command"] == "vila-hd"
    assert command_parser(started["args"][0]).parse_args(started["args"][1:]).model == "nano"


def test_the_example_runs(server, picture, tmp_path, monkeypatch, capsys):
    code, _ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    picture.save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    code = code.replace("http://127.0.0.1:8000", server.url).replace('model="nano"', 'model="tiny"')
    exec(compile(code, "docs/serving.md", "exec"), {})
    said = capsys.readouterr().out
    assert "image_tokens=" in said
    assert "'box': [" in said


def test_the_larger_language_model_can_be_composed(tmp_path):
    _, code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    folder, whole = str(tmp_path / "llm"), str(tmp_path / "larger")
    exec(compile(code.replace("/tmp/llm", folder), "docs/serving.md", "exec"), {})
    assert main(["compose", "nano", folder, whole]) == 0
    model, _ = vila_hd.load(whole)
    assert 50e6 < sum(parameter.numel() for parameter in model.model.language_model.parameters()) < 51e6


def test_every_name_of_a_request_is_documented():
    ignored = {"model"}
    for name in {*ChatRequest.model_fields, *HighRes.model_fields} - ignored:
        words = {"frequency_penalty": "penalties", "presence_penalty": "penalties"}.get(name, f"`{name}`")
        assert words in TEXT or (name == "n" and "`n` above 1" in TEXT), name


def test_every_option_for_strangers_exists():
    table = TEXT.split("## Who may do what")[1].split("\n## ")[0]
    known = {flag for action in command_parser("serve")._actions for flag in action.option_strings}
    assert set(re.findall(r"`(--[\w-]+)", TEXT.split("## In a container")[0])) <= known
    assert "--api-key-file" in table
