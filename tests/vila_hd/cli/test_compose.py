"""``vila-hd compose``: two folders become one that answers."""

import pytest

from vila_hd import cli
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.testing import tiny_text_config, tiny_tokenizer, tiny_vision_config


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a tiny tower and of a tiny language model."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("parts")
    PS3VisionModel(tiny_vision_config()).save_pretrained(folder / "tower")
    AutoModelForCausalLM.from_config(tiny_text_config()).save_pretrained(folder / "llm")
    tiny_tokenizer().save_pretrained(folder / "llm")
    return folder


def compose(*words):
    return cli.main(["compose", *map(str, words)])


def test_the_new_folder_answers(capsys, parts, tmp_path, picture):
    assert compose(parts / "tower", parts / "llm", tmp_path / "new") == 0
    assert "parameters" in capsys.readouterr().out
    assert (
        cli.main(["ask", str(picture), "q", "--model", str(tmp_path / "new"), "--max-new-tokens", "2"]) == 0
    )


def test_an_existing_folder_is_not_overwritten(capsys, parts, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    assert compose(parts / "tower", parts / "llm", tmp_path) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("tower", "llm"), [("llm", "llm"), ("tower", "tower"), ("missing", "llm")])
def test_parts_of_the_wrong_kind(capsys, parts, tmp_path, tower, llm):
    assert compose(parts / tower, parts / llm, tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_unknown_projector(capsys, parts, tmp_path):
    assert compose(parts / "tower", parts / "llm", tmp_path / "new", "--projector", "magic") == 2
    assert "magic" in capsys.readouterr().err
