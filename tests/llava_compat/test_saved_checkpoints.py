"""save_checkpoint: the published layout is written whole or not at all, and reads back equal."""

import json
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

import llava_compat
import vila_hd
from llava_compat import load_checkpoint, save_checkpoint
from llava_compat.folders import COMPONENTS
from vila_hd import VilaHDError
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor


def test_published_to_ours_to_published_keeps_every_key_and_tensor(
    good_published, loaded, tmp_path, changed_settings
):
    save_checkpoint(*loaded, tmp_path / "again")
    renamed = {"_attn_implementation_autoset", "_name_or_path", "resume_path", "transformers_version"}
    for path in sorted(good_published.rglob("*.json")):
        name = str(path.relative_to(good_published))
        theirs, ours = json.loads(path.read_text()), json.loads((tmp_path / "again" / name).read_text())
        if name in ("llm/special_tokens_map.json", "llm/tokenizer_config.json", "llm/generation_config.json"):
            continue  # compared by what is read from them, below
        lost = {
            k: v
            for k, v in theirs.items()
            if k not in renamed and not k.endswith("_cfg") and ours.get(k) != v
        }
        assert not lost, name
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["resume_path"] == "again"
    assert config["architectures"] == ["LlavaTopDownLlamaModel"]
    assert "vila_hd" not in config
    for name in COMPONENTS:
        assert config[f"{name}_cfg"] == json.loads((tmp_path / "again" / name / "config.json").read_text())
        theirs = load_file(good_published / name / "model.safetensors")
        ours = load_file(tmp_path / "again" / name / "model.safetensors")
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert not changed_settings(load_checkpoint(tmp_path / "again"), loaded)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="plain"),
        pytest.param({"model_type": "llama", "text": {"tie_word_embeddings": True}}, id="tied llama"),
        pytest.param(
            {"prompt_head": "linear", "default_budget": 130, "select_layer": 1}, id="other settings"
        ),
        pytest.param(
            {"prompt_head": None, "default_guide": "saliency", "default_budget": 0}, id="no head, budget 0"
        ),
        pytest.param({"default_guide": "saliency", "high_res_position": False}, id="head beside saliency"),
        pytest.param({"projector_type": "mlp_downsample_3x3_fix", "lm_head_bias": True}, id="3x3, bias"),
        pytest.param({"vision": {"residual_grid_size": 4, "resample": "bicubic"}}, id="coarse tables"),
    ],
)
def test_ours_to_published_to_ours_is_the_identity(tmp_path, config, same_model, changed_settings):
    model = tiny_model(tiny_config(**config))
    processor = tiny_processor(model.config)
    model.generation_config.temperature = 0.3
    save_checkpoint(model, processor, tmp_path / "out", extensions=True)
    again = load_checkpoint(tmp_path / "out")
    assert same_model(model, again[0])
    assert not changed_settings((model, processor), again)
    arguments = ([tiny_picture(90, 60)], "what?")
    expected = vila_hd.ask(model, processor, *arguments, max_new_tokens=4)
    assert vila_hd.ask(*again, *arguments, max_new_tokens=4).text == expected.text


def test_the_bundled_model_survives_the_published_layout(tmp_path, same_model, changed_settings):
    model, processor = vila_hd.load("nano", dtype="bfloat16")
    save_checkpoint(model, processor, tmp_path / "nano", extensions=True)
    again = llava_compat.load_checkpoint(tmp_path / "nano", dtype="bfloat16")
    assert same_model(model, again[0])
    assert not changed_settings((model, processor), again)


def test_written_tokenizers_have_what_the_published_code_expects(tmp_path):
    model = tiny_model()
    save_checkpoint(model, tiny_processor(model.config), tmp_path / "out", extensions=True)
    added = json.loads((tmp_path / "out" / "llm" / "added_tokens.json").read_text())
    names = ["<image>", "[BOS]", "[PAD]", "<vila/sentinel>", "<vila/video>"]
    assert [added[name] for name in names] == [259, 260, 261, 262, 263]
    settings = json.loads((tmp_path / "out" / "llm" / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["pad_token"]) == ("[BOS]", "[PAD]")
    assert settings["padding_side"] == "right"
    assert not settings["chat_template"].startswith("{%- set ns")
    assert json.loads((tmp_path / "out" / "llm" / "config.json").read_text())["vocab_size"] == 264
    table = load_file(tmp_path / "out" / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(table[260:], table[:260].mean(0).expand(4, -1))


def test_models_that_the_published_code_cannot_run_are_refused_with_all_reasons(tmp_path):
    model = tiny_model(tiny_config(projector_type="mlp2x_gelu", default_budget=0, select_layer=0))
    with pytest.raises(VilaHDError) as caught:
        save_checkpoint(model, tiny_processor(model.config), tmp_path / "out")
    for words in (
        "model_name",
        "'antialias'",
        "aspect ratio",
        "'mlp2x_gelu'",
        "block 0",
        "budget is 0",
        "64 pixels",
    ):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, loaded):
    (tmp_path / "out").mkdir()
    save_checkpoint(*loaded, tmp_path / "out")
    before = (tmp_path / "out" / "config.json").read_bytes()
    with pytest.raises(VilaHDError, match="exists already"):
        save_checkpoint(*loaded, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, loaded, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava_compat.writing.write_folder", full)
    with pytest.raises(VilaHDError, match="No space left on device"):
        save_checkpoint(*loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, loaded, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10, 9, 1))
    with pytest.raises(VilaHDError, match=r"needs 0.00 GB, but only 0.00 GB are free"):
        save_checkpoint(*loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_saved_models_can_be_saved_in_our_layout_and_loaded(tmp_path, loaded, same_model, changed_settings):
    model, processor = loaded
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    again = vila_hd.load(tmp_path / "ours")
    assert same_model(model, again[0])
    assert not changed_settings(loaded, again)
    assert again[0].config.published == model.config.published
