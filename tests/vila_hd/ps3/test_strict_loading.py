import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vila_hd.errors import VilaHDError
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.modeling_ps3_text import PS3TextModel

NAME = "text_model.ln_final.weight"


@pytest.fixture
def folder(tmp_path):
    config = PS3TextConfig(
        vocab_size=9, width=8, heads=2, layers=1, context_length=4, output_dim=6, prompt_proj_dim=6
    )
    PS3TextModel(config).save_pretrained(tmp_path)
    return tmp_path


def change(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.pop(NAME), rf"1 missing tensor\(s\): {NAME}"),
        (lambda t: t.update(stray=torch.zeros(1)), r"1 unexpected tensor\(s\): stray"),
        (lambda t: t.update({NAME: torch.ones(5)}), rf"{NAME} is \(5,\), expected \(8,\)"),
        (lambda t: t[NAME].fill_(float("nan")), rf"NaN or infinite values in {NAME}"),
        (lambda t: t[NAME][3:4].fill_(float("inf")), rf"NaN or infinite values in {NAME}"),
    ],
)
def test_a_bad_tensor_is_named_in_one_line(folder, edit, named):
    change(folder, edit)
    with pytest.raises(VilaHDError, match=named) as caught:
        PS3TextModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_many_bad_tensors_are_counted_and_the_first_few_named(folder):
    change(folder, lambda t: [t.pop(name) for name in list(t) if "resblocks" in name])
    with pytest.raises(VilaHDError, match=r"12 missing tensor\(s\): .* and 8 more"):
        PS3TextModel.from_pretrained(folder)


def test_a_cut_off_weights_file_is_one_line(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VilaHDError, match="cannot load PS3TextModel") as caught:
        PS3TextModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_config_file_is_one_line(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(VilaHDError, match="config") as caught:
        PS3TextModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(VilaHDError, match="gone") as caught:
        PS3TextModel.from_pretrained(tmp_path / "gone")
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(VilaHDError, match="safetensors"):
        PS3TextModel.from_pretrained(folder)


def test_values_whose_sum_overflows_are_still_finite(folder):
    change(folder, lambda t: t.update({NAME: torch.full((8,), 3e38)}))
    assert json.loads((folder / "config.json").read_text())["width"] == 8
    assert PS3TextModel.from_pretrained(folder).text_model.ln_final.weight[0] == 3e38


def test_nothing_but_the_error_is_reported(folder, caplog):
    change(folder, lambda t: t.pop(NAME))
    with pytest.raises(VilaHDError):
        PS3TextModel.from_pretrained(folder)
    assert "LOAD REPORT" not in caplog.text


def test_another_shape_is_accepted_when_asked_for(folder):
    change(folder, lambda t: t.update({NAME: torch.ones(5)}))
    model = PS3TextModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.text_model.ln_final.weight.shape == (8,)


def test_loading_info_is_returned_when_asked(folder):
    model, info = PS3TextModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, PS3TextModel)
    assert not info["missing_keys"]
