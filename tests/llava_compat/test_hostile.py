"""Folders that mean harm, or are broken in any way: one line of ``VilaHDError``, and nothing else."""

import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import vila_hd
from llava_compat import load_checkpoint
from llava_compat.checkpoints import read_checkpoint
from llava_compat.formats import PublishedFormat
from vila_hd import VilaHDError
from vila_hd.cli.info import describe, read_model
from vila_hd.testing import tiny_picture

FILES = (
    "config.json",
    "llm/config.json",
    "llm/tokenizer.json",
    "llm/tokenizer_config.json",
    "mm_projector/config.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
)
WEIGHTS = ("llm/model.safetensors", "mm_projector/model.safetensors", "vision_tower/model.safetensors")
ADAPTER = ("adapter_config.json", "config.json")
QUICK, THOROUGH = 40, 600
"""Examples per property in the default run and with ``-m slow``; there are five."""

SLOW_ANSWERS = 300
"""Examples with an answer each, with ``-m slow``."""


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(VilaHDError, match=words) as caught:
        load_checkpoint(folder, **options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ known ways to do harm


def write_index(folder: Path, file: str) -> None:
    """An index that says that every tensor is in ``file``."""
    names = json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    (folder / "model.safetensors").rename(folder / "moved.safetensors")
    index = {"weight_map": {name: file for name in names if name != "__metadata__"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file",
    [
        "../stolen.safetensors",
        "{root}/stolen.safetensors",
        "a/../../stolen.safetensors",
        "..",
        "",
        ".",
        "a\0b",
    ],
)
def test_indexes_that_point_elsewhere_are_refused(published, tmp_path, file):
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "stolen.safetensors")
    save_file({"model.norm.weight": torch.zeros(64)}, published / "stolen.safetensors")
    write_index(published / "llm", file.format(root=tmp_path))
    refused(published, "outside the folder|cannot be read|are missing")


@pytest.mark.parametrize("name", ["llm/model.safetensors", "config.json", "vision_tower/config.json", "llm"])
def test_links_out_of_the_folder_are_refused(published, tmp_path, name):
    secret = tmp_path / "secret"
    (published / name).rename(secret)
    (published / name).symlink_to(secret)
    refused(published, "outside the model's folder")


def test_links_inside_the_folder_are_followed(published):
    (published / "llm" / "model.safetensors").rename(published / "weights.safetensors")
    (published / "llm" / "model.safetensors").symlink_to("../weights.safetensors")
    load_checkpoint(published)


def test_a_link_to_the_whole_folder_is_followed(good_published, tmp_path):
    (tmp_path / "link").symlink_to(good_published)
    load_checkpoint(tmp_path / "link")


@pytest.mark.parametrize("component", ["llm", "vision_tower", "mm_projector"])
def test_pickles_are_never_opened(published, component):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(published / "harm"),))

    (published / component / "model.safetensors").unlink()
    torch.save({"weight": Harm()}, published / component / "pytorch_model.bin")
    refused(published, "only pytorch_model.bin, a pickle")
    assert not (published / "harm").exists()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_cut_files_are_named(published, name, keep):
    path = published / name
    path.write_bytes(path.read_bytes()[:keep])
    refused(published, f"{name}: .*(cut off|not JSON|no safetensors)")


def rewrite_header(path: Path, change) -> None:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 256]},
        {"dtype": "F32", "shape": [-8, -8], "data_offsets": [0, 256]},
        {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 256]},
        {"dtype": "F32", "shape": [64], "data_offsets": [-256, 0]},
        {"dtype": "F32", "shape": [64], "data_offsets": [0, 2**70]},
        {"dtype": "Q4", "shape": [64], "data_offsets": [0, 256]},
        {"dtype": "F32", "shape": "64", "data_offsets": [0, 256]},
        {"dtype": ["F32"], "shape": [64], "data_offsets": [0, 256]},
        [],
        None,
    ],
)
def test_absurd_headers_are_refused_before_anything_is_allocated(published, entry):
    path = published / "llm" / "model.safetensors"
    rewrite_header(path, lambda header: header.update({"model.norm.weight": entry}))
    refused(published, r"llm/model\.safetensors")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("llm/config.json", {"num_hidden_layers": 10**9}),
        ("llm/config.json", {"hidden_size": 10**9}),
        ("llm/config.json", {"hidden_size": 2**31 - 1}),
        ("llm/config.json", {"intermediate_size": 2**30}),
        ("llm/config.json", {"num_attention_heads": 0}),
        ("llm/config.json", {"head_dim": 10**8}),
        ("llm/config.json", {"model_type": "mixtral", "num_local_experts": 10**8}),
        ("llm/config.json", {"rope_scaling": {"rope_type": "yarn", "factor": 1e300}}),
        ("vision_tower/config.json", {"num_hidden_layers": 10**9}),
        ("vision_tower/config.json", {"hidden_size": 2**30}),
        ("vision_tower/config.json", {"select_based_on_layer": [0] * 100_000}),
        ("vision_tower/config.json", {"highres_selection_module_depth": 10**9}),
        ("vision_tower/config.json", {"highres_selection_module_hidden_dim": 2**31 - 1}),
        ("vision_tower/config.json", {"ps3_scales": [70, 2**31 - 1]}),
        ("vision_tower/config.json", {"max_select_num": 0}),
        ("vision_tower/config.json", {"num_attention_heads": 10**9}),
        ("vision_tower/preprocessor_config.json", {"image_size": 10**9}),
        ("vision_tower/preprocessor_config.json", {"image_size": [2**20, 2**20], "size": None}),
        ("mm_projector/config.json", {"mm_projector_type": "mlp999999999x_gelu"}),
        ("config.json", {"num_look_close": 10**30}),
        ("config.json", {"vila_hd": {"vocab_rows": 2**31 - 1}}),
        ("config.json", {"vila_hd": {"select_layer": 10**9}}),
        ("config.json", {"vila_hd": {"default_budget": -1}}),
        ("config.json", {"vila_hd": {"cell_rule": "none"}}),
        ("config.json", {"vila_hd": {"resize_mode": "stretch"}}),
        ("config.json", {"vila_hd": {"generation_config": {"eos_token_id": {}}}}),
        ("config.json", {"vila_hd": 3}),
    ],
)
def test_absurd_configs_are_refused_before_anything_is_allocated(published, edit, file, values):
    edit(published / file, **values)
    refused(published, ".")


def test_deep_nesting_is_refused(published):
    (published / "llm" / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    refused(published, r"llm/config\.json: not a readable JSON file")


# ------------------------------------------------------------------ everything else

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        [0, 1, 2, 14, 64, 2**20, "auto", "linear", "mlp", "all", "qwen2", "llama", "gpt2", "\0", "../x"]
    )
    | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value, itself included."""
    yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in entries:
        yield from places(child, (*path, key))


def put(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """``path`` with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def read_all(folder: Path, **options: Any) -> None:
    """Recognise and read a folder; only ``VilaHDError`` may come out."""
    PublishedFormat().recognises(folder)
    try:
        checkpoint = read_checkpoint(folder, **options)
        for tensor in list(checkpoint.tensors.values())[:3]:
            tensor.read(torch.float32)
    except VilaHDError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017


def thorough(test):
    """The same property twice: a few examples by default, many with ``-m slow``."""
    options = {
        "deadline": None,
        "database": None,
        "suppress_health_check": [
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
            HealthCheck.data_too_large,
        ],
    }
    quick = settings(max_examples=QUICK, derandomize=True, **options)
    slow = settings(max_examples=THOROUGH, **options)
    return pytest.mark.parametrize(
        "examples", [pytest.param(quick, id="few"), pytest.param(slow, id="many", marks=pytest.mark.slow)]
    )(test)


@pytest.fixture(scope="module")
def victim(good_published, tmp_path_factory) -> Path:
    return shutil.copytree(good_published, tmp_path_factory.mktemp("fuzz") / "model_a")


@pytest.fixture(scope="module")
def adapter(victim, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "lora"
    folder.mkdir()
    shutil.copyfile(victim / "config.json", folder / "config.json")
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {}}'
    )
    name = "base_model.model.llm.model.layers.0.self_attn.q_proj"
    parts = {f"{name}.lora_A.weight": torch.zeros(2, 64), f"{name}.lora_B.weight": torch.zeros(64, 2)}
    save_file(parts, folder / "adapter_model.safetensors")
    torch.save(
        {"base_model.model.mm_projector.layers.4.bias": torch.zeros(64)}, folder / "non_lora_trainables.bin"
    )
    return folder


@thorough
def test_any_value_anywhere_in_a_config(victim, examples):
    originals = {name: json.loads((victim / name).read_text()) for name in FILES}

    @examples
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(FILES))
        original = originals[name]
        path = data.draw(st.sampled_from(list(places(original))[:400]))
        changed = put(original, path, data.draw(JSON))
        with replaced(victim / name, json.dumps(changed).encode()):
            read_all(victim)

    check()


@pytest.mark.slow
def test_what_is_read_also_answers(victim):
    """Values that reading lets pass break nothing later."""
    originals = {name: json.loads((victim / name).read_text()) for name in FILES}
    picture = tiny_picture(60, 40)

    @settings(
        max_examples=SLOW_ANSWERS, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(FILES))
        path = data.draw(st.sampled_from(list(places(originals[name]))[:400]))
        changed = put(originals[name], path, data.draw(JSON))
        with replaced(victim / name, json.dumps(changed).encode()):
            try:
                model, processor = load_checkpoint(victim)
                describe(read_model(str(victim)))
                vila_hd.ask(model, processor, [picture], "what?", max_new_tokens=1)
            except VilaHDError as error:
                assert "\n" not in str(error), str(error)  # noqa: PT017

    check()


@thorough
def test_any_damage_to_a_file(victim, examples):
    names = (*FILES, *WEIGHTS)

    @examples
    @given(st.sampled_from(names), st.integers(0), st.binary(max_size=12), st.integers(0, 40))
    def check(name: str, position: int, content: bytes, lost: int) -> None:
        raw = (victim / name).read_bytes()
        # Mostly in the first kilobytes, where headers are.
        at = position % min(len(raw), 4000)
        with replaced(victim / name, raw[:at] + content + raw[at + lost :]):
            read_all(victim)

    check()


@thorough
def test_any_change_of_a_weight_file_s_header(victim, examples):
    @examples
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = victim / data.draw(st.sampled_from(WEIGHTS))
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        place = data.draw(st.sampled_from(list(places(header))))
        text = json.dumps(put(header, place, data.draw(JSON))).encode()
        with replaced(path, struct.pack("<Q", len(text)) + text + raw[8 + length :]):
            read_all(victim)

    check()


@thorough
def test_any_index(victim, examples):
    folder = victim / "mm_projector"
    index = folder / "model.safetensors.index.json"
    file = st.sampled_from(
        ["model.safetensors", "../llm/model.safetensors", "/etc/passwd", "", ".", "x", "a\0b"]
    )

    @examples
    @given(JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=6), file | JSON)}))
    def check(value: Any) -> None:
        index.write_text(json.dumps(value))
        read_all(victim)

    try:
        check()
    finally:
        index.unlink()


@thorough
def test_any_adapter(victim, adapter, examples):
    originals = {name: json.loads((adapter / name).read_text()) for name in ADAPTER}
    binaries = ("adapter_model.safetensors", "non_lora_trainables.bin")

    @examples
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from((*ADAPTER, *binaries)))
        if name in binaries:
            raw = (adapter / name).read_bytes()
            at = data.draw(st.integers(0, len(raw) - 1))
            content = raw[:at] + data.draw(st.binary(max_size=8)) + raw[at + data.draw(st.integers(0, 20)) :]
        else:
            path = data.draw(st.sampled_from(list(places(originals[name]))[:100]))
            content = json.dumps(put(originals[name], path, data.draw(JSON))).encode()
        with replaced(adapter / name, content):
            read_all(adapter, base=victim)

    check()
