"""Adapters hold everything that was trained, and merged equals unmerged."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import vila_hd
from train.lora import LoraConfig, add_adapters, merge_state, save_adapter, target_layers
from train.run import run_stage
from train.stages import component_of, count_by_component, freeze_all_but
from vila_hd.checkpoint_files import check_checkpoint
from vila_hd.cli import main as cli
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.testing import tiny_config, tiny_model, tiny_processor


def adapted(config: LoraConfig, trainable=("selector", "projector", "llm"), *, seed=0):
    """A model with adapters that are no longer zero, and everything trained moved a little."""
    torch.manual_seed(seed)
    model = tiny_model()
    freeze_all_but(model, trainable)
    add_adapters(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def logits(model):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 200, (2, 9), generator=generator)
    shown = torch.full((2, model.config.low_res_tokens), model.config.image_token_id)
    pixels = [torch.randint(0, 255, (3, 128, 96), dtype=torch.uint8, generator=generator) for _ in range(2)]
    with torch.no_grad():
        return model(
            torch.cat([shown, ids], 1), pixel_values=pixels, high_res=HighResOptions(budget=320),
            prompt_positions=torch.tensor([ids.shape[1], ids.shape[1]]),
        ).logits  # fmt: skip


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


CONFIGS = {
    "lora": LoraConfig(rank=4, alpha=8),
    "dora": LoraConfig(rank=2, alpha=6, dora=True),
    "tower": LoraConfig(rank=2, components=("llm", "vision"), targets=("q_proj", "v_proj", "qkv")),
    "embeddings": LoraConfig(rank=2, embeddings=True),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_unmerged_and_opened_again_answer_the_same(kind, base, tmp_path):
    config = CONFIGS[kind]
    trainable = ("selector", "projector", *config.components)
    model = adapted(config, trainable)
    expected = logits(model)
    state = model.state_dict()
    plain = tiny_model()
    assert (logits(plain) - expected).abs().max() > 1e-2
    plain.load_state_dict(merge_state(state, config))
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapter(tmp_path / "adapter", state, trained, config, base)
    opened, _ = vila_hd.load(tmp_path / "adapter")
    torch.testing.assert_close(opened.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_everything_that_was_trained_is_in_the_adapter(base, tmp_path):
    config = CONFIGS["embeddings"]
    model = adapted(config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapter(tmp_path / "adapter", model.state_dict(), trained, config, base)
    whole = set(load_file(tmp_path / "adapter" / "trained_weights.safetensors"))
    names = dict(tiny_model().named_parameters())
    expected = {name for name in names if component_of(name) in ("selector", "projector")}
    assert whole == expected | {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    counts = count_by_component(model)
    assert counts["vision"][0] == 0
    assert counts["selector"][1] == counts["projector"][1] == 0
    assert 0 < counts["llm"][0] < counts["llm"][1] + counts["llm"][0]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_reads_the_same_adapter(kind, base, tmp_path):
    config = CONFIGS[kind]
    model = adapted(config)
    state = model.state_dict()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapter(tmp_path / "adapter", state, trained, config, base)
    plain = tiny_model()
    plain.load_state_dict(load_file(tmp_path / "adapter" / "trained_weights.safetensors"), strict=False)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-5, atol=1e-5)


def test_layers_are_linear_ones_of_the_components():
    names = target_layers(tiny_model(), LoraConfig())
    assert {component_of(name + ".weight") for name in names} == {"llm"}
    assert len(names) == 2 * 7
    assert len(target_layers(tiny_model(), LoraConfig(targets=("q_proj", "mlp.up_proj")))) == 4
    with pytest.raises(ValueError, match=r"no linear layer ends in \['query'\]; there are \['down_proj'"):
        target_layers(tiny_model(), LoraConfig(targets=("query",)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": {"rank": 0}}, "rank=0"),
        ({"lora": {"dropout": 1.0}}, "dropout=1.0"),
        ({"lora": {"components": ["vision"]}}, r"lora.components names \['vision'\]"),
        ({"lora": {"bits": 4}}, "bits=4: .* set merge to false"),
        ({"lora": {"bits": 4, "merge": False}, "zero": 3}, "ZeRO-3 cannot cut such weights"),
        ({"lora": {}, "llm": "x.yaml"}, "lora: needs a complete model"),
    ],
)
def test_what_does_not_fit_is_named(values, message, tiny_stage, tmp_path):
    with pytest.raises((ValueError, VilaHDError), match=message):
        tiny_stage(tmp_path, **values)


def test_missing_bitsandbytes_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model = tiny_model()
    freeze_all_but(model, ["llm"])
    with pytest.raises(VilaHDError, match=r"lora.bits=4.*qlora"):
        add_adapters(model, LoraConfig(bits=4, merge=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"peft_type": "LOHA"}, "only LORA"),
        (lambda c: c | {"use_rslora": True}, "use_rslora"),
        (lambda c: c | {"base_model_name_or_path": ""}, "write the base model's folder"),
        (lambda c: c | {"base_model_name_or_path": "/none/such"}, "no such folder"),
    ],
)
def test_adapters_that_cannot_be_opened(change, message, base, tmp_path):
    config = CONFIGS["lora"]
    model = adapted(config)
    save_adapter(tmp_path / "adapter", model.state_dict(), set(), config, base)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(VilaHDError, match=message):
        vila_hd.load(tmp_path / "adapter")


def test_info_and_doctor_read_adapters(base, tmp_path, capsys):
    config = CONFIGS["dora"]
    model = adapted(config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    folder = tmp_path / "adapter"
    save_adapter(folder, model.state_dict(), trained, config, base)
    assert cli(["info", str(folder)]) == 0
    assert f"changed by the adapter {folder}: DoRA of rank 2 on 14 layers" in capsys.readouterr().out
    findings = list(check_checkpoint(folder))
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.topic for finding in findings][:2] == ["adapter", "files"]
    (folder / "adapter_model.safetensors").write_bytes(b"cut off")
    (finding,) = check_checkpoint(folder)
    assert finding.level == "problem"


def test_adapter_of_another_base_is_refused(base, tmp_path):
    config = CONFIGS["lora"]
    model = adapted(config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapter(tmp_path / "adapter", model.state_dict(), trained, config, base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.lora_A.weight"))
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, path)
    with pytest.raises(VilaHDError, match="use the base that it was trained on"):
        vila_hd.load(tmp_path / "adapter")


@pytest.mark.parametrize("merge", [True, False])
def test_a_run_leaves_a_model_that_opens(merge, tiny_stage, tiny_folder, tmp_path, run_ranks, values_of):
    config = tiny_stage(tmp_path, lora={"rank": 2, "merge": merge}, max_steps=2, global_batch_size=1)
    values_of(run_ranks(run_stage, config, ranks=1))
    assert (tmp_path / "adapter").exists() == merge
    model, _ = vila_hd.load(tmp_path / "model")
    adapter = tmp_path / ("adapter" if merge else "model")
    torch.testing.assert_close(
        model.state_dict(), vila_hd.load(adapter)[0].state_dict(), rtol=0, atol=0
    )  # fmt: skip
    before = vila_hd.load(tiny_folder)[0].state_dict()
    changed = {component_of(n) for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"selector", "projector", "llm"}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("bits", [4, 8])
def test_few_bits_learn_and_leave_an_adapter(bits, tiny_stage, tmp_path, run_ranks, values_of):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16}
    tiny_folder = tmp_path / "base"
    tiny_model(tiny_config(text=sizes)).save_pretrained(tiny_folder)
    tiny_processor().save_pretrained(tiny_folder)
    config = tiny_stage(
        tmp_path, zero=2, model=str(tiny_folder), lora={"rank": 2, "bits": bits, "merge": False},
        max_steps=4, precision="bf16", save_steps=2,
    )  # fmt: skip
    values_of(run_ranks(run_stage, config))
    losses = [json.loads(line)["language"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    model, _ = vila_hd.load(tmp_path / "model")
    before = vila_hd.load(tiny_folder)[0].state_dict()
    changed = {component_of(n) for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"selector", "projector", "llm"}
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "checkpoint-4")
    values_of(run_ranks(lambda: run_stage(config, resume=True)))
    again, _ = vila_hd.load(tmp_path / "model")
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_killed_run_with_adapters_goes_on(zero, tiny_stage, tmp_path, run_ranks, values_of):
    values = {"zero": zero, "lora": {"rank": 2, "dora": True, "dropout": 0.1}, "save_steps": 2}
    straight, cut = tiny_stage(tmp_path / "a", **values), tiny_stage(tmp_path / "b", **values)
    values_of(run_ranks(run_stage, straight, timeout=300))
    values_of(run_ranks(run_stage, cut, timeout=300))
    shutil.rmtree(cut.output_dir / "model")
    shutil.rmtree(cut.output_dir / "checkpoint-4")
    values_of(run_ranks(lambda: run_stage(cut, resume=True), timeout=300))
    a, b = (vila_hd.load(Path(config.output_dir) / "model")[0].state_dict() for config in (straight, cut))
    torch.testing.assert_close(b, a, rtol=0, atol=0)
