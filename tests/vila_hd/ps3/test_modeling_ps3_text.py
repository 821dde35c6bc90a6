import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vila_hd.errors import VilaHDError
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.modeling_ps3_text import PS3TextModel

TINY = {
    "vocab_size": 30,
    "width": 16,
    "heads": 2,
    "layers": 2,
    "context_length": 8,
    "output_dim": 12,
    "prompt_proj_dim": 10,
}
VARIANTS = [
    {},
    {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    {"pool_type": "first", "ls_init_value": 0.1, "act_kwargs": {"approximate": "tanh"}},
    {"embed_cls": True, "pad_id": 3, "norm_kwargs": {"eps": 1e-6}},
    {"pool_type": "none", "no_causal_mask": True},
]


def tiny(**options) -> PS3TextModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PS3TextModel(PS3TextConfig(**TINY, **options)).eval()


def some_ids(length: int = 8) -> torch.Tensor:
    return torch.randint(0, 30, (3, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", VARIANTS)
def test_saving_and_loading_keeps_every_tensor_and_output(tmp_path, options):
    model = tiny(**options)
    model.save_pretrained(tmp_path)
    loaded = PS3TextModel.from_pretrained(tmp_path)
    assert dict(model.named_parameters()).keys() == dict(loaded.named_parameters()).keys()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    before, after = model(some_ids()), loaded(some_ids())
    # Not to the last bit: kernels round by the alignment of the memory that tensors were loaded into.
    assert torch.allclose(before.pooled_output, after.pooled_output, atol=1e-6)
    assert torch.allclose(before.prompt, after.prompt, atol=1e-6)


def test_no_buffer_can_be_lost_on_the_meta_device():
    assert not [name for options in VARIANTS for name, _ in tiny(**options).named_buffers()]


def test_causal_mask_hides_later_tokens():
    model, ids = tiny(pool_type="first"), some_ids()
    changed = ids.clone()
    changed[:, 1:] = (ids[:, 1:] + 1) % 30
    assert torch.equal(model(ids).pooled_output, model(changed).pooled_output)
    assert not torch.equal(
        tiny(pool_type="first", no_causal_mask=True)(ids).pooled_output,
        tiny(pool_type="first", no_causal_mask=True)(changed).pooled_output,
    )


def test_texts_shorter_than_the_context_are_accepted_with_a_causal_mask():
    # The reference refuses them; what comes before the pooled token must not depend on what comes after it.
    model, ids = tiny(pool_type="first"), some_ids()
    assert torch.allclose(model(ids[:, :5]).pooled_output, model(ids).pooled_output, atol=1e-6)


def test_batched_equals_single():
    model, ids = tiny(embed_cls=True), some_ids()
    singly = torch.cat([model(row[None]).prompt for row in ids])
    assert torch.allclose(model(ids).prompt, singly, atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient():
    plain, checked = tiny().train(), tiny().train()
    checked.gradient_checkpointing_enable()
    for model in (plain, checked):
        model(some_ids()).prompt.square().sum().backward()
    pairs = zip(plain.parameters(), checked.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype):
    model = tiny()
    exact = model(some_ids()).prompt
    low = model.to(dtype)(some_ids()).prompt
    assert low.dtype == dtype
    assert torch.allclose(low.float(), exact, atol=0.05)


def test_meta_device_model_is_initialised_when_tensors_are_absent(tmp_path):
    model = tiny(ls_init_value=0.1)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_model.transformer.resblocks.1.ls_1.gamma"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VilaHDError, match=r"1 missing tensor\(s\): .*resblocks.1.ls_1.gamma"):
        PS3TextModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        (torch.zeros(8, dtype=torch.long), r"\(8,\)"),
        (torch.zeros(1, 8), "float32"),
        (torch.zeros(1, 9, dtype=torch.long), "9 text tokens"),
        (torch.zeros(1, 0, dtype=torch.long), "0 text tokens"),
        (torch.full((1, 8), 30), "vocab_size=30"),
    ],
)
def test_wrong_ids_are_named_in_one_line(ids, named):
    with pytest.raises(VilaHDError, match=named) as caught:
        tiny()(ids)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"heads": 3}, "heads=3"),
        ({"layers": 0}, "layers=0"),
        ({"pool_type": "mean"}, "pool_type='mean'"),
        ({"act_kwargs": {"inplace": True}}, "inplace"),
        ({"mlp_ratio": 0.01}, "mlp_ratio=0.01"),
    ],
)
def test_a_wrong_config_value_is_named(options, named):
    with pytest.raises(VilaHDError, match=named):
        PS3TextConfig(**(TINY | options))


def test_every_published_config_is_written_back_with_its_values(tmp_path, goldens):
    for name, checkpoint in goldens.manifest["checkpoints"].items():
        if checkpoint["kind"] != "text":
            continue
        PS3TextConfig.from_pretrained(goldens.checkpoint(name)).save_pretrained(tmp_path)
        published = json.loads((goldens.checkpoint(name) / "config.json").read_text())
        saved = json.loads((tmp_path / "config.json").read_text())
        ignored = {"architectures", "torch_dtype", "transformers_version"}
        assert {k: saved[k] for k in published if k not in ignored} == {
            k: v for k, v in published.items() if k not in ignored
        }


def test_text_tower_of_a_combined_folder_equals_the_standalone_one(tmp_path, goldens):
    combined = PS3TextModel.from_pretrained(goldens.checkpoint("a_siglip3"))
    combined.save_pretrained(tmp_path)
    shutil.copy(goldens.checkpoint("a_siglip3") / "config.json", tmp_path / "combined.json")
    ids = torch.randint(0, 120, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(PS3TextModel.from_pretrained(tmp_path)(ids).prompt, combined(ids).prompt)


@pytest.mark.parametrize("options", VARIANTS)
def test_every_weight_has_a_start_value_of_its_own(options):
    model = tiny(**options)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "gamma" in name or "ln_" in name or name.endswith("norm.weight"):
            assert value.std() < 1e-6, name
        else:
            assert 0.005 < value.std() < 0.5, name
