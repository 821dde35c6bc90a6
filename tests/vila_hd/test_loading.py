"""load and compose: folders that are whole, folders that are not, and models from parts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

import vila_hd
from vila_hd import VilaHDError
from vila_hd.ps3 import PS3VisionModel
from vila_hd.testing import (
    tiny_model,
    tiny_picture,
    tiny_processor,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_loaded_model_answers_as_before(saved: Path) -> None:
    model, processor = vila_hd.load(saved)
    assert not model.training
    picture = tiny_picture(90, 60)
    expected = vila_hd.ask(tiny_model(), tiny_processor(), [picture], "what?", max_new_tokens=6)
    assert vila_hd.ask(model, processor, [picture], "what?", max_new_tokens=6).text == expected.text


def test_dtype_is_the_one_asked_for(saved: Path) -> None:
    assert vila_hd.load(saved, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert vila_hd.load(str(saved), dtype=torch.float32)[0].dtype == torch.float32


def change_json(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def change_tensors(edit: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


HEAD = "model.projector.top_down_prompt_head.fc1.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "chat_template.jinja").unlink(), "chat.template"),
        (lambda f: (f / "processor_config.json").unlink(), "processor_config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (change_json("config.json", projector_type="resampler"), "projector_type='resampler'"),
        (change_json("config.json", projector_type=7), "config.json cannot be read"),
        (change_json("config.json", model_type="llama"), "a 'llama' model"),
        (change_json("config.json", image_token_id=3), "image_token_id is 259 .* and 3"),
        (change_json("processor_config.json", low_res_tokens=9), "low_res_tokens is 9 .* and 4"),
        (change_tensors(lambda t: t.pop(HEAD)), "1 missing tensor"),
        (change_tensors(lambda t: t.update(extra=torch.zeros(1))), "1 unexpected tensor"),
        (change_tensors(lambda t: t.update({HEAD: torch.zeros(2, 2)})), "another shape"),
        (change_tensors(lambda t: t[HEAD].fill_(float("nan"))), "NaN"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    saved: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(VilaHDError, match=words) as caught:
        vila_hd.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "/nowhere/at/all"}, "no such folder"),
        ({"name": "nana"}, "nana: no such folder; use 'nano'"),
        ({"name": "no/such-model", "local_files_only": True}, "no such folder or hub repository"),
        ({"dtype": "int3"}, "dtype='int3'"),
        ({"device": "toaster"}, "device='toaster'"),
        ({"attn_implementation": "magic"}, "attn_implementation='magic'"),
    ],
)
def test_options_that_mean_nothing_are_named(saved: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(VilaHDError, match=words):
        vila_hd.load(**{"name": saved, **options})


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    siglip = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    SiglipVisionModel(siglip).save_pretrained(folder / "siglip")
    PS3VisionModel(tiny_vision_config()).save_pretrained(folder / "ps3")
    for model_type, tied in (("qwen2", False), ("llama", True)):
        config = tiny_text_config(model_type, vocab_size=259, tie_word_embeddings=tied)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / model_type)
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(folder / model_type)
    return folder


@pytest.mark.parametrize(("name", "kind"), [("ps3", "ps3_vision_model"), ("siglip", "siglip_vision_model")])
def test_a_tower_alone_is_named_as_what_it_is(parts: Path, name: str, kind: str) -> None:
    with pytest.raises(VilaHDError, match=f"a '{kind}' model, not a VILA-HD one; vila_hd.compose builds"):
        vila_hd.load(parts / name)


@pytest.mark.parametrize(("tower", "llm"), [("ps3", "qwen2"), ("siglip", "llama")])
def test_composed_model_works_and_survives_saving(parts: Path, tmp_path: Path, tower: str, llm: str) -> None:
    model, processor = vila_hd.compose(tower=parts / tower, llm=parts / llm)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (llm == "llama")
    answer = vila_hd.ask(model, processor, [tiny_picture(90, 60)], "what?", max_new_tokens=4)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = vila_hd.ask(*vila_hd.load(tmp_path), [tiny_picture(90, 60)], "what?", max_new_tokens=4)
    assert again.text == answer.text
    assert processor.tokenizer.decode(model.config.prompt_end_ids) == "<|im_end|>\n<|im_start|>assistant"


def test_composed_model_keeps_the_weights_of_its_parts(parts: Path) -> None:
    model, _ = vila_hd.compose(tower=parts / "ps3", llm=parts / "qwen2", seed=1)
    language = AutoModelForCausalLM.from_pretrained(parts / "qwen2", dtype=torch.float32)
    for name, value in language.base_model.layers.state_dict().items():
        assert torch.equal(model.model.language_model.layers.state_dict()[name], value)
    tower = PS3VisionModel.from_pretrained(parts / "ps3").state_dict()
    ours = model.model.vision_tower.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in tower.items())


def test_seed_decides_the_fresh_parameters(parts: Path) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (
        vila_hd.compose(tower=parts / "ps3", llm=parts / "qwen2", seed=seed)[0].model.projector.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.2.weight"], other["layers.2.weight"])


@torch.no_grad()
def test_siglip_trunk_sees_what_siglip_sees(parts: Path) -> None:
    siglip = SiglipVisionModel.from_pretrained(
        parts / "siglip", hidden_act="gelu", dtype=torch.float32
    ).eval()
    model, _ = vila_hd.compose(tower=parts / "siglip", llm=parts / "qwen2")
    pixels = torch.randn(1, 3, 32, 32)
    expected = siglip(pixels, output_hidden_states=True)
    low = model.model.vision_tower.encode_low_res(pixels, layers=(-2, -1), pool=True)
    torch.testing.assert_close(low.features[0], expected.hidden_states[-2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(low.features[1], expected.hidden_states[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(low.pooled, expected.pooler_output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tower": "qwen2"}, "use the folder of a PS3 or SigLIP tower"),
        ({"llm": "siglip"}, "llm .* cannot be loaded"),
        ({"tower": "nothing"}, "tower .* cannot be loaded"),
        ({"scales": [32, 64]}, "has its own scales|with its own scales"),
        ({"projector_type": "magic"}, "projector_type='magic'"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts: Path, options: dict[str, object], words: str) -> None:
    folders = {
        key: parts / str(options.get(key, default)) for key, default in (("tower", "ps3"), ("llm", "qwen2"))
    }
    with pytest.raises(VilaHDError, match=words):
        vila_hd.compose(**{**options, **folders})


def test_tokenizer_without_chat_template_is_refused(parts: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(VilaHDError, match="chat_template="):
        vila_hd.compose(tower=parts / "ps3", llm=parts / "qwen2", tokenizer=tokenizer)
