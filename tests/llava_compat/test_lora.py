"""LoRA and DoRA folders: merged while they are read, with the weights that were trained as a whole."""

import json
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import vila_hd
from llava_compat import load_checkpoint
from llava_compat.key_maps import join_full_name, to_published
from vila_hd import VilaHDError
from vila_hd.testing import tiny_picture, user_message

peft = pytest.importorskip("peft")

LAYERS = (
    "model.language_model.layers.0.self_attn.q_proj",
    "model.language_model.layers.1.mlp.down_proj",
    "model.vision_tower.vision_model.trunk.blocks.1.attn.qkv",
    "model.vision_tower.vision_model.trunk.blocks.3.mlp.fc1",
)
TRAINED = "model.projector.layers.2.weight"


def full_name(name: str) -> str:
    """The name that one of our tensors has in the published whole model."""
    return join_full_name(*to_published(name))


@pytest.fixture(scope="module")
def inputs(good_published):
    _, processor = load_checkpoint(good_published)
    message = user_message("what is it?", tiny_picture(70, 50))
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template([message], **options)
    return {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def write_adapter(folder, base, inputs, *, binary=False, **settings) -> torch.Tensor:
    """Write an adapter as the published training code saves it; return the unmerged model's logits."""
    model, _ = load_checkpoint(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        trained = model.get_parameter(TRAINED)
        trained.add_(torch.randn(trained.shape, generator=generator) * 0.05)
    changed = trained.detach().clone()
    config = peft.LoraConfig(
        target_modules=list(LAYERS), task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 16, **settings}
    )
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_magnitude" in name:
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
            elif "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        logits = wrapped(**inputs).logits
    # What PEFT's save_pretrained writes, without its questions to the hub.
    folder.mkdir()
    tensors = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    wrapped.peft_config["default"].save_pretrained(folder)
    to_published_names(folder, binary)
    torch.save({f"base_model.model.{full_name(TRAINED)}": changed}, folder / "non_lora_trainables.bin")
    (folder / "config.json").write_text((base / "config.json").read_text())
    return logits


def to_published_names(folder, binary: bool) -> None:
    tensors = {}
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        ours, end = re.fullmatch(r"base_model\.model\.(.*)(\.lora_.*)", key).groups()
        tensors[f"base_model.model.{full_name(ours + '.weight').removesuffix('.weight')}{end}"] = value
    if binary:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = [full_name(f"{name}.weight").removesuffix(".weight") for name in LAYERS]
    path.write_text(json.dumps(settings))


@torch.no_grad()
def logits_of(model, inputs) -> torch.Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="LoRA"),
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"use_rslora": True, "r": 8}, id="rank-stabilised"),
        pytest.param({"alpha_pattern": {"down_proj": 2}, "rank_pattern": {"qkv": 2}}, id="patterns"),
        pytest.param({"binary": True}, id="adapter_model.bin"),
    ],
)
def test_merged_logits_are_the_unmerged_ones(tmp_path, good_published, inputs, settings):
    expected = write_adapter(tmp_path / "lora", good_published, inputs, **settings)
    model, _ = load_checkpoint(tmp_path / "lora", base=good_published)
    logits = logits_of(model, inputs)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    # Far from the base, so that an adapter that is not applied would be noticed.
    assert (logits - logits_of(load_checkpoint(good_published)[0], inputs)).abs().max() > 0.1


@pytest.fixture(scope="module")
def good_adapter(tmp_path_factory, good_published, inputs):
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    write_adapter(folder, good_published, inputs)
    return folder


@pytest.fixture
def adapter(good_adapter, tmp_path):
    """A copy to change."""
    return shutil.copytree(good_adapter, tmp_path / "lora")


def test_weights_trained_as_a_whole_are_applied(adapter, good_published):
    (adapter / "adapter_model.safetensors").unlink()
    changed = torch.load(adapter / "non_lora_trainables.bin", weights_only=True)
    save_file(changed, adapter / "adapter_model.safetensors")
    (adapter / "non_lora_trainables.bin").unlink()
    model, _ = load_checkpoint(adapter, base=good_published)
    assert torch.equal(model.get_parameter(TRAINED), next(iter(changed.values())))


def test_the_adapter_s_own_config_counts(adapter, good_published, edit):
    edit(adapter / "config.json", num_look_close=1, look_close_mode="after_image")
    config = load_checkpoint(adapter, base=good_published)[0].config
    assert (config.default_budget, config.default_guide) == (None, "saliency")


def test_an_adapter_alone_asks_for_its_base(adapter, edit):
    edit(adapter / "adapter_config.json", base_model_name_or_path="owner/base")
    for load in (load_checkpoint, vila_hd.load):
        with pytest.raises(VilaHDError, match=r"trained on 'owner/base'.*pass base="):
            load(adapter)
    with pytest.raises(VilaHDError, match="LoRA weights themselves"):
        load_checkpoint(adapter, base=adapter)


class Hostile:
    def __reduce__(self):
        return (print, ("code of the file was run",))


@pytest.mark.parametrize("content", ["code", "cut", "noise", "list", "no tensor"])
def test_pickles_that_are_more_than_tensors_are_not_opened(adapter, good_published, capsys, content):
    path = adapter / "non_lora_trainables.bin"
    if content == "code":
        path.write_bytes(pickle.dumps({"base_model.model.mm_projector.layers.2.weight": Hostile()}))
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif content == "noise":
        path.write_bytes(b"\x80\x02noise")
    else:
        torch.save([torch.zeros(1)] if content == "list" else {"a": 1}, path)
    with pytest.raises(VilaHDError, match=r"non_lora_trainables\.bin: not a ") as caught:
        load_checkpoint(adapter, base=good_published)
    assert "\n" not in str(caught.value)
    assert "was run" not in capsys.readouterr().out


def drop(end):
    def change(tensors) -> None:
        del tensors[next(name for name in tensors if name.endswith(end))]

    return change


Q_PROJ = "base_model.model.llm.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (drop("lora_A.weight"), {}, "lora_A is missing"),
        (drop("lora_B.weight"), {}, "lora_B is missing"),
        (
            lambda t: t.update({f"{Q_PROJ}.lora_A.weight": torch.zeros(4, 5)}),
            {},
            r"lora_A \(4, 5\) .* \(64, 64\)",
        ),
        (
            lambda t: t.update({"base_model.model.llm.x.lora_A.weight": torch.zeros(4, 5)}),
            {},
            "lora_B is missing",
        ),
        (
            lambda t: t.update({"base_model.model.llm.e.lora_embedding_A": torch.zeros(4, 5)}),
            {},
            "only LoRA and DoRA",
        ),
        (
            lambda t: t.update({"base_model.model.resampler.weight": torch.zeros(4)}),
            {},
            "belongs to no component",
        ),
        (lambda t: t.update({"base_model.model.llm.new.weight": torch.zeros(4)}), {}, "1 unknown tensor"),
        (lambda t: None, {"use_dora": True}, "has no magnitudes"),
        (lambda t: None, {"peft_type": "IA3"}, "peft_type='IA3'"),
        (lambda t: None, {"lora_alpha": "x"}, "lora_alpha='x'"),
        (lambda t: None, {"alpha_pattern": {"(": 1}}, "is no pattern"),
        (lambda t: None, {"layer_replication": [[0, 1]]}, "uses layer_replication"),
        (lambda t: None, {"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(adapter, good_published, edit, change, settings, words):
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    edit(adapter / "adapter_config.json", **settings)
    with pytest.raises(VilaHDError, match=words) as caught:
        load_checkpoint(adapter, base=good_published)
    assert "\n" not in str(caught.value)


def test_layers_that_the_base_does_not_have_are_named(adapter, good_published):
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.llm.model.layers.9.mlp.down_proj.lora_A.weight"] = torch.zeros(4, 5)
    tensors["base_model.model.llm.model.layers.9.mlp.down_proj.lora_B.weight"] = torch.zeros(5, 4)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(VilaHDError, match=r"changes llm:model\.layers\.9\.mlp\.down_proj\.weight"):
        load_checkpoint(adapter, base=good_published)
