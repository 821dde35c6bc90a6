"""``vila-hd info``: facts from small files, and one line for what is no model."""

import json

import pytest

from vila_hd import cli


def facts_of(capsys, folder):
    assert cli.main(["info", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, folder):
    assert cli.main(["info", str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_facts_of_a_tiny_model(capsys, good_folder):
    facts = facts_of(capsys, good_folder)
    assert facts["scales"].startswith("32, 64, 128 px")
    assert facts["language model"].startswith("qwen2, 2 layers of width 48")
    assert facts["one pass"] == ["16 patches at 64 px, 64 patches at 128 px"]
    assert "budget 0: 4 low-res + 0 high-res" in facts["visual tokens"]
    assert facts["stored as"] == "F32"
    assert facts["chat template"] == "present"


def test_the_components_add_up(capsys, good_folder):
    text = facts_of(capsys, good_folder)["numbers"]
    total, _, parts = text.partition(" (")
    counts = [int(part.rsplit(" ", 1)[1].replace(",", "")) for part in parts.rstrip(")").split(", ")]
    assert sum(counts) == int(total.replace(",", ""))


def test_text_output_names_every_fact(capsys, good_folder):
    assert cli.main(["info", str(good_folder)]) == 0
    text = capsys.readouterr().out
    for name in ("licence", "vision tower", "visual tokens", "numbers", "guided by"):
        assert f"\n{name}" in text


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model", "apache-2.0 (the weights"),
        ("---\nlicense: other\nlicense_name: nsclv1\n---\n", "nsclv1"),
        ("# No front matter\nlicense: mit", "not stated"),
        ("---\nlicense: mit\nnever closed", "not stated"),
    ],
)
def test_the_licence_is_the_model_card_s(capsys, folder, card, expected):
    (folder / "README.md").write_text(card)
    assert expected in facts_of(capsys, folder)["licence"]


def test_what_is_no_model_is_refused(capsys, folder, tmp_path):
    assert "no such folder" in refused(capsys, tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(capsys, tmp_path / "empty")
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert "model_type is 'qwen2'" in refused(capsys, folder)


def test_damaged_weights_are_refused(capsys, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut off" in refused(capsys, folder)


@pytest.fixture
def hub(monkeypatch, good_folder):
    """A hub of one model, ``owner/tiny``."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import SafetensorsFileMetadata, TensorInfo

    from vila_hd.checkpoint_files import read_tensors

    def snapshot_download(name, *, allow_patterns):
        assert not any("safetensors" in pattern for pattern in allow_patterns)
        if name != "owner/tiny":
            raise OSError(f"no {name}\nhere")
        return str(good_folder)

    def parse_safetensors_file_metadata(name, file):
        assert (name, file) == ("owner/tiny", "model.safetensors")
        tensors = {
            key: TensorInfo(dtype=info.dtype, shape=list(info.shape), data_offsets=(0, 0))
            for key, info in read_tensors(good_folder).items()
        }
        return SafetensorsFileMetadata(metadata={}, tensors=tensors)

    def list_repo_files(name):
        return sorted(path.name for path in good_folder.iterdir())

    assert issubclass(RepositoryNotFoundError, OSError)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "parse_safetensors_file_metadata", parse_safetensors_file_metadata)


def test_a_hub_id_shows_the_same_facts_without_its_weights(capsys, good_folder, hub):
    expected = facts_of(capsys, good_folder)
    assert facts_of(capsys, "owner/tiny") == expected


def test_an_unknown_hub_id_is_one_line(capsys, hub):
    assert "owner/huge: neither a folder nor a readable model" in refused(capsys, "owner/huge")
