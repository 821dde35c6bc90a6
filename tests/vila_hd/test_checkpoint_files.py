"""Damaged model folders are recognised from their files alone, each with its own message."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vila_hd.checkpoint_files import (
    check_checkpoint,
    has_chat_template,
    read_header,
    read_json,
    read_tensors,
    require_intact,
)
from vila_hd.errors import VilaHDError


def write_safetensors(path, header, data=b"", *, length=None):
    """A file with any header; ``length`` overrides what it says about its own size."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def error_of(call, *arguments):
    with pytest.raises(VilaHDError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_is_read_as_written(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    tensors = read_header(tmp_path / "x.safetensors")
    assert {name: (info.dtype, info.shape, info.num_elements) for name, info in tensors.items()} == {
        "a": ("F32", (3, 4), 12),
        "b": ("BF16", (5,), 5),
    }


def test_cut_off_and_too_long_files_name_both_sizes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(64)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    message = error_of(read_header, path)
    assert f"{len(whole) - 9} bytes" in message
    assert f"describes {len(whole)}: cut off" in message
    path.write_bytes(whole + b"x")
    assert "too long" in error_of(read_header, path)


@pytest.mark.parametrize(
    ("header", "length", "words"),
    [
        (b"{}", 10**15, "cut off or no safetensors"),
        (b"", 0, "not JSON"),
        (b"not json", None, "not JSON"),
        ([1, 2], None, "malformed"),
        ({"a": 3}, None, "malformed"),
        ({"a": entry([2], 0, 8, dtype="F99")}, None, "malformed"),
        ({"a": entry([3], 0, 8)}, None, "needs 12 bytes, got 8"),
        ({"a": entry([1], 4, 8)}, None, "starts at byte 4, expected 0"),
        ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, None, "starts at byte 4, expected 8"),
    ],
)
def test_malformed_headers(tmp_path, header, length, words):
    path = write_safetensors(tmp_path / "x.safetensors", header, b"\0" * 8, length=length)
    assert words in error_of(read_header, path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(place=st.integers(0, 300), patch=st.binary(min_size=1, max_size=5), cut=st.integers(0, 300))
def test_any_damage_gives_tensors_or_one_line(tmp_path_factory, place, patch, cut):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"alpha": torch.zeros(3, 4), "beta": torch.ones(5)}, path)
    content = bytearray(path.read_bytes())
    content[place : place + len(patch)] = patch
    path.write_bytes(bytes(content[: len(content) - cut] if cut % 3 == 0 else content))
    try:
        tensors = read_header(path)
    except VilaHDError:
        return
    assert all(info.num_elements >= 0 for info in tensors.values())


def test_a_folder_without_weights(tmp_path):
    assert "no such folder" in error_of(read_tensors, tmp_path / "missing")
    assert "no model.safetensors" in error_of(read_tensors, tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    message = error_of(read_tensors, tmp_path)
    assert f"only {name}, a pickle" in message
    assert "convert it to safetensors" in message


@pytest.fixture
def sharded(tmp_path):
    """A folder of two weight files and their index."""
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def write_map(folder, **weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_joins_its_files(sharded):
    assert {name: info.file for name, info in read_tensors(sharded).items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


def test_an_index_that_does_not_fit_its_files(sharded):
    write_map(sharded, a="one.safetensors", b="two.safetensors", c="two.safetensors")
    assert "1 tensors that no file holds, e.g. c" in error_of(read_tensors, sharded)
    write_map(sharded, a="one.safetensors", c="two.safetensors")
    assert "no file holds, e.g. c" in error_of(read_tensors, sharded)
    write_map(sharded, a="one.safetensors", b="three.safetensors")
    message = error_of(read_tensors, sharded)
    assert "1 of the 2 weight files of its index are missing: 'three.safetensors'; get the" in message
    write_map(sharded, a="../one.safetensors")
    assert "outside the folder" in error_of(read_tensors, sharded)
    (sharded / "model.safetensors.index.json").write_text("{}")
    assert "no usable weight_map" in error_of(read_tensors, sharded)


@pytest.mark.parametrize(("read", "name"), [(read_json, "config.json"), (read_header, "x.safetensors")])
def test_files_that_git_lfs_did_not_fetch_are_named(tmp_path, read, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n")
    assert "a Git LFS pointer, not the file itself; run git lfs pull" in error_of(read, path)


def test_json_files(tmp_path):
    path = tmp_path / "config.json"
    assert "no such file" in error_of(read_json, path)
    for content, words in (
        ("{", "not a readable JSON file"),
        ("[1]", "holds a list"),
        ("[" * 10**5, "readable"),
    ):
        path.write_text(content)
        assert words in error_of(read_json, path)
    path.write_bytes(b"\xff\xfe{")
    assert "not a readable JSON file" in error_of(read_json, path)


def test_chat_template_places(tmp_path):
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("x")
    assert has_chat_template(tmp_path)


def test_values_that_are_not_finite_or_look_uninitialised_are_named(tmp_path):
    tensors = {"good": torch.ones(3), "nan": torch.tensor([1.0, float("nan")]), "wild": torch.tensor([1e30])}
    tensors["inf"] = torch.tensor([float("inf")], dtype=torch.bfloat16)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "something"}')
    findings = {(f.level, f.topic): f for f in check_checkpoint(tmp_path)}
    assert "2 tensor(s): inf, nan" in findings["problem", "values"].text
    assert "wild (up to 1.0e+30)" in findings["note", "values"].text


def test_a_folder_without_config_is_a_problem(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (finding,) = check_checkpoint(tmp_path)
    assert finding.level == "problem"
    assert "config.json: no such file" in finding.text


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    """A complete tiny model, saved."""
    from vila_hd.testing import tiny_model, tiny_processor

    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good_folder, tmp_path):
    """A copy to damage."""
    for path in good_folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def levels(folder):
    return {finding.topic: finding for finding in check_checkpoint(folder) if finding.level != "ok"}


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_good_folder_has_no_remarks(folder):
    assert levels(folder) == {}


def test_missing_and_unexpected_tensors_and_wrong_shapes(folder):
    name = "model.projector.layers.2.weight"
    names = load_file(folder / "model.safetensors")
    name = next(key for key in names if "projector" in key and names[key].ndim == 2)
    change(folder, lambda tensors: tensors.update({"stranger": tensors.pop(name)}))
    texts = [finding.text for finding in check_checkpoint(folder) if finding.level == "problem"]
    assert texts == [f"1 missing tensor(s): {name}", "1 unexpected tensor(s): stranger"]


def test_wrong_shapes_name_both(folder):
    name = next(key for key, value in load_file(folder / "model.safetensors").items() if value.shape == (48,))
    change(folder, lambda tensors: tensors.update({name: torch.zeros(49)}))
    assert levels(folder)["structure"].text == f"{name} is (49,), expected (48,)"


def test_a_config_that_describes_no_model(folder):
    config = json.loads((folder / "config.json").read_text())
    config["projector_type"] = "magic"
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json describes no model" in levels(folder)["structure"].text
    assert "magic" in levels(folder)["structure"].text


def test_missing_processor_files_and_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer.json").unlink()
    found = levels(folder)
    assert found["tokenizer"].level == "problem"
    assert "chat_template.jinja" in found["chat template"].fix


def test_what_cannot_be_loaded_at_all_is_refused_at_once(folder):
    require_intact(folder)
    (folder / "tokenizer.json").write_text("{}")
    assert "describes no tokenizer" in error_of(require_intact, folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer" in error_of(require_intact, folder)
    (folder / "tokenizer_config.json").write_text("[]")
    assert "holds a list" in error_of(require_intact, folder)
    (folder / "config.json").write_text("{}")
    assert "no model_type" in error_of(require_intact, folder)
