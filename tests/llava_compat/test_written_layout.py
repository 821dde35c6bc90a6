"""What we write is what the published code reads: files, names and keys, and the parts that transformers
itself can open."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llava_compat import load_checkpoint, save_checkpoint
from llava_compat.folders import COMPONENTS
from vila_hd.testing import tiny_config, tiny_model, tiny_processor

NEEDED = {
    "config.json",
    "llm/config.json",
    "llm/generation_config.json",
    "llm/model.safetensors",
    "llm/tokenizer.json",
    "llm/tokenizer_config.json",
    "llm/special_tokens_map.json",
    "llm/added_tokens.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
    "vision_tower/model.safetensors",
    "mm_projector/config.json",
    "mm_projector/model.safetensors",
}

READ = {
    *("model_type", "architectures", "llm_cfg", "vision_tower_cfg", "mm_projector_cfg", "resume_path", "ps3"),
    *("look_close_mode", "num_look_close", "num_token_look_close", "top_down_prompt_head_type"),
    *("high_res_pos_embed", "ps3_dynamic_aspect_ratio", "mm_vision_select_layer"),
    *("mm_vision_select_feature", "image_aspect_ratio", "num_video_frames", "fps", "image_encoder"),
    "video_encoder",
}
"""Keys of config.json that the published loader reads."""


@pytest.fixture(scope="module")
def written(good_published, tmp_path_factory):
    """A recorded model and one that never was a published one, both written by us."""
    place = tmp_path_factory.mktemp("written")
    save_checkpoint(*load_checkpoint(good_published), place / "recorded")
    model = tiny_model(tiny_config(prompt_head="mlp", high_res_position=True))
    save_checkpoint(model, tiny_processor(model.config), place / "own", extensions=True)
    return place


def names(folder) -> set[str]:
    """Names of tensors with ``N`` for every number."""
    return {re.sub(r"\d+", "N", name) for name in load_file(folder / "model.safetensors")}


@pytest.mark.parametrize("model", ["recorded", "own"])
def test_files_are_where_they_are_looked_for(written, model):
    found = {
        str(path.relative_to(written / model)) for path in (written / model).rglob("*") if path.is_file()
    }
    assert found >= NEEDED
    assert not [name for name in found if "/" not in name and name.endswith((".safetensors", ".bin"))]


@pytest.mark.parametrize("model", ["recorded", "own"])
def test_keys_are_those_that_are_read(written, model):
    config = json.loads((written / model / "config.json").read_text())
    assert config.keys() >= READ
    assert config["resume_path"] == model
    assert (config["model_type"], config["architectures"]) == (
        "llava_topdown_llama",
        ["LlavaTopDownLlamaModel"],
    )
    kinds = {name: config[f"{name}_cfg"]["model_type"] for name in COMPONENTS}
    assert kinds == {"llm": "qwen2", "vision_tower": "ps3_vision_model", "mm_projector": "v2l_projector"}
    assert all("auto_map" not in config[f"{name}_cfg"] for name in COMPONENTS)
    assert json.loads(config["image_encoder"])["_target_"] == "llava.model.encoders.BasicImageEncoder"
    assert config["vision_tower_cfg"]["ps3_scales"]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("model", ["recorded", "own"])
def test_tensors_have_the_published_names(written, good_published, model, component):
    assert names(written / model / component) == names(good_published / component)


@torch.no_grad()
@pytest.mark.parametrize("model", ["recorded", "own"])
def test_transformers_opens_the_language_model(written, model):
    folder = written / model / "llm"
    llm, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", use_fast=True, legacy=False)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    assert len(tokenizer) == llm.get_input_embeddings().num_embeddings
    ours, processor = load_checkpoint(written / model)
    prompt = processor.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert ids[0].tolist() == processor.encode(prompt, add_special_tokens=False)
    rows = ours.config.text_config.vocab_size
    torch.testing.assert_close(llm(ids).logits[..., :rows], ours(ids).logits, atol=1e-5, rtol=1e-5)
    known = tokenizer.get_vocab()
    assert {"<vila/sentinel>", "<image>", "<vila/video>"} <= known.keys()
    assert tokenizer.bos_token is not None
    assert tokenizer.pad_token is not None
