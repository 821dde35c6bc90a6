"""Tensors of folders, one at a time."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_compat import tensors as module
from llava_compat.tensors import from_tensor, open_folder, with_rows, write_file, write_folder
from vila_hd import VilaHDError
from vila_hd.checkpoint_files import read_tensors


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "half": torch.randn(5, 3, generator=generator).half(),
        "brain": torch.randn(7, generator=generator).bfloat16(),
        "single": torch.randn(2, 3, 4, generator=generator),
        "double": torch.randn(3, generator=generator, dtype=torch.float64),
        "whole": torch.arange(6).view(2, 3),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


def test_files_are_read_as_safetensors_reads_them(values, tmp_path):
    save_file(values, tmp_path / "model.safetensors")
    for name, tensor in open_folder(tmp_path, "here").items():
        assert tensor.shape == tuple(values[name].shape)
        assert tensor.source == f"here/model.safetensors:{name}"
        assert torch.equal(tensor.read(tensor.dtype), values[name])


@pytest.mark.parametrize("chunk", [1, 4, 10**6])
def test_dtypes_are_converted_in_chunks(values, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    save_file(values, tmp_path / "model.safetensors")
    for name, tensor in open_folder(tmp_path, "").items():
        if tensor.dtype.is_floating_point:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                assert torch.equal(tensor.read(dtype), values[name].to(dtype))


def test_integers_do_not_become_weights(values, tmp_path):
    save_file(values, tmp_path / "model.safetensors")
    with pytest.raises(VilaHDError, match="whole is I64, expected a floating-point dtype"):
        open_folder(tmp_path, "")["whole"].read(torch.float32)


def test_written_files_are_read_by_safetensors(values, tmp_path):
    lazy = {name: from_tensor(name, value) for name, value in values.items()}
    sizes: list[int] = []
    write_file(tmp_path / "model.safetensors", lazy, None, sizes.append)
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in values.items())
    assert sum(sizes) == sum(value.nbytes for value in values.values())
    assert read_tensors(tmp_path).keys() == values.keys()


def test_only_floats_change_their_dtype(values, tmp_path):
    lazy = {name: from_tensor(name, value) for name, value in values.items()}
    write_file(tmp_path / "model.safetensors", lazy, torch.bfloat16)
    again = load_file(tmp_path / "model.safetensors")
    assert torch.equal(again["single"], values["single"].bfloat16())
    assert again["whole"].dtype == torch.int64


def test_large_folders_are_split_and_indexed(tmp_path):
    values = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    lazy = {name: from_tensor(name, value) for name, value in values.items()}
    write_folder(tmp_path, lazy, None, shard_bytes=90)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    read = open_folder(tmp_path, "")
    assert all(torch.equal(read[name].read(torch.float32), value) for name, value in values.items())


def test_rows_are_cut_or_filled_with_their_mean(tmp_path):
    table = torch.randn(6, 4)
    save_file({"table": table}, tmp_path / "model.safetensors")
    stored = open_folder(tmp_path, "")["table"]
    assert with_rows(stored, 6) is stored
    assert torch.equal(with_rows(stored, 2).read(torch.float32), table[:2])
    longer = with_rows(stored, 9)
    assert longer.shape == (9, 4)
    value = longer.read(torch.float32)
    assert torch.equal(value[:6], table)
    torch.testing.assert_close(value[6:], table.mean(0).expand(3, 4))


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path):
    save_file({"table": torch.randn(6, 4)}, tmp_path / "model.safetensors")
    stored = open_folder(tmp_path, "")["table"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(VilaHDError, match="cut off or changed while table was read"):
        stored.read(torch.float32)
