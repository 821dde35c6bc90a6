"""python -m llava_compat.convert, on every pair of layouts."""

import csv
import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import vila_hd
from llava_compat import convert, load_checkpoint
from llava_compat.folders import COMPONENTS
from vila_hd.ps3 import PS3VisionModel
from vila_hd.testing import tiny_model, tiny_processor


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "tiny"
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_published_to_ours_loads_as_load_checkpoint_does(good_published, tmp_path, capsys):
    assert run(good_published, tmp_path / "ours") == 0
    assert "our layout, 147 tensors" in capsys.readouterr().out
    model, processor = vila_hd.load(tmp_path / "ours")
    expected, expected_processor = load_checkpoint(good_published)
    assert equal(model.state_dict(), expected.state_dict())
    ours, theirs = model.config.to_dict(), expected.config.to_dict()
    changed = {key for key in theirs if ours[key] != theirs[key]}
    assert changed <= {"_name_or_path", "architectures"}
    assert processor.chat_template == expected_processor.chat_template
    assert model.generation_config.eos_token_id == expected.generation_config.eos_token_id


def test_published_to_ours_to_published_is_the_same(good_published, tmp_path):
    (good := tmp_path / "source").symlink_to(good_published)
    assert run(good, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "again") == 0
    for name in COMPONENTS:
        assert equal(tensors_of(tmp_path / "again" / name), tensors_of(good_published / name))


def test_ours_to_published_to_ours_is_the_identity(ours, tmp_path, capsys):
    assert run(ours, tmp_path / "published") == 2
    assert "allow it with extensions=True (--extensions)" in capsys.readouterr().err
    assert run(ours, tmp_path / "published", "--extensions") == 0
    assert run(tmp_path / "published", tmp_path / "again") == 0
    assert equal(tensors_of(tmp_path / "again"), tensors_of(ours))
    before, after = (vila_hd.load(folder)[0].config.to_dict() for folder in (ours, tmp_path / "again"))
    changed = {key for key in before if before[key] != after.get(key)}
    assert changed <= {"_name_or_path", "vision_config", "text_config"}


def test_the_tower_alone_is_a_ps3_folder(good_published, tmp_path):
    assert run(good_published, tmp_path / "tower", "--to", "ps3") == 0
    tower = PS3VisionModel.from_pretrained(tmp_path / "tower")
    expected = load_checkpoint(good_published)[0].model.vision_tower
    assert equal(tower.state_dict(), expected.state_dict())
    assert equal(tensors_of(tmp_path / "tower"), tensors_of(good_published / "vision_tower"))


def test_dtypes_are_converted(good_published, tmp_path):
    assert run(good_published, tmp_path / "short", "--dtype", "bfloat16") == 0
    stored = tensors_of(tmp_path / "short")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert equal(stored, load_checkpoint(good_published, dtype="bfloat16")[0].state_dict())
    assert json.loads((tmp_path / "short" / "config.json").read_text())["dtype"] == "bfloat16"


def test_reports_name_every_tensor(good_published, tmp_path):
    report = tmp_path / "report.tsv"
    assert run(good_published, tmp_path / "ours", "--dtype", "float16", "--report", report) == 0
    rows = list(csv.DictReader(report.open(newline=""), delimiter="\t"))
    stored = tensors_of(tmp_path / "ours")
    assert {row["target"] for row in rows} == set(stored)
    for row in rows:
        assert row["shape"] == "x".join(map(str, stored[row["target"]].shape))
        assert (row["stored_dtype"], row["dtype"]) == ("float32", "float16")
        component, _, name = row["source"].partition("/model.safetensors:")
        assert tuple(tensors_of(good_published / component)[name].shape) == tuple(stored[row["target"]].shape)


def test_a_dry_run_checks_everything_and_writes_no_model(published, tmp_path, capsys, edit_tensors):
    assert run(published, tmp_path / "ours", "--dry-run", "--report", "-") == 0
    output = capsys.readouterr().out
    assert "llm/model.safetensors:model.norm.weight\tmodel.language_model.norm.weight\t64" in output
    assert re.search(r" tensors, [1-9][\d.]*[kM]B would be written", output)
    edit_tensors(published / "llm", lambda tensors: tensors.pop("model.norm.weight"))
    assert run(published, tmp_path / "ours", "--dry-run", "--to", "ps3") == 2
    assert "1 missing tensor" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_adapters_are_merged_to_the_disk(good_published, tmp_path, edit, capsys):
    from safetensors.torch import save_file

    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "config.json").write_text((good_published / "config.json").read_text())
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}')
    name = "base_model.model.llm.model.layers.0.self_attn.q_proj"
    down, up = torch.randn(2, 64), torch.randn(64, 2)
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, adapter / "adapter_model.safetensors"
    )
    assert run(adapter, tmp_path / "merged", "--to", "vila") == 2
    assert "pass base=" in capsys.readouterr().err
    assert run(adapter, tmp_path / "merged", "--to", "vila", "--base", good_published) == 0
    before, after = (tensors_of(folder / "llm") for folder in (good_published, tmp_path / "merged"))
    changed = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(after.pop(changed), before.pop(changed) + 2 * up @ down)
    assert equal(before, after)
    merged = load_checkpoint(tmp_path / "merged")[0].state_dict()
    assert equal(merged, load_checkpoint(adapter, base=good_published)[0].state_dict())


def test_documents_go_with_the_weights(published, tmp_path):
    (published / "README.md").write_text("---\nlicense: mit\n---\n")
    (published / "LICENSE").write_text("text")
    for to in convert.TARGETS:
        assert run(published, tmp_path / to, "--to", to) == 0
        assert (tmp_path / to / "README.md").read_text() == "---\nlicense: mit\n---\n"
        assert (tmp_path / to / "LICENSE").read_text() == "text"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{src}", "{src}"], "exists already"),
        (["{src}", "{dst}", "--to", "llava"], "invalid choice"),
        (["{dst}", "{dst}"], "no such folder"),
        (["{src}/llm", "{dst}"], "model_type is 'qwen2'"),
        (["{src}/vision_tower", "{dst}"], "vila-hd compose makes a model of a tower"),
        (["{src}", "{dst}", "--base", "{src}"], "holds a whole model"),
        (["nano", "{dst}", "--base", "{src}"], "holds a whole model"),
        (["{src}", "{dst}", "--report", "{src}/config.json"], "exists already"),
        (["{src}", "{dst}", "--report", "/nowhere/r.tsv", "--dry-run"], "cannot be written"),
        (["{src}", "{dst}", "--chat-template", "{dst}"], "--chat-template"),
        (["{src}"], "DST"),
    ],
)
def test_what_cannot_be_done_is_one_line(good_published, tmp_path, capsys, arguments, words):
    places = {"src": good_published, "dst": tmp_path / "dst"}
    assert run(*(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_an_interrupted_conversion_leaves_nothing_behind(good_published, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("llava_compat.writing.write_folder", interrupt)
    assert run(good_published, tmp_path / "dst") == 130
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch():
    program = (
        "import sys; from llava_compat.convert import build_parser; build_parser().format_help(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_module_runs(good_published, tmp_path):
    command = [
        sys.executable,
        "-m",
        "llava_compat.convert",
        str(good_published),
        str(tmp_path / "dst"),
        "--dry-run",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "would be written" in done.stdout
