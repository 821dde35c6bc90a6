from dataclasses import replace

import pytest

from eval.store import Prediction, PredictionFile
from vila_hd.errors import VilaHDError

ONE = Prediction(
    uid="test-1-0", condition="prompt-16", prediction="dots", answer="dots", score=1.0, group="texture",
    patches=16, visual_tokens=20, recall=None, seconds=0.5,
)  # fmt: skip
TWO = replace(ONE, uid="test-2-0", recall=0.25)


def test_predictions_survive_reopening(tmp_path):
    path = tmp_path / "deep" / "p.jsonl"
    with PredictionFile(path, settings={"model": "a", "tiers": ("texture",)}) as file:
        file.add([ONE])
    with PredictionFile(path, settings={"model": "a", "tiers": ("texture",)}) as file:
        file.add([TWO, replace(ONE, score=0.0)])
        assert file.predictions == {ONE.key: ONE, TWO.key: TWO}
    with PredictionFile(path, settings={"model": "a", "tiers": ("texture",)}) as file:
        assert file.predictions == {ONE.key: ONE, TWO.key: TWO}


@pytest.mark.parametrize("cut", [1, 30])
def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path, cut):
    path = tmp_path / "p.jsonl"
    with PredictionFile(path, settings={}) as file:
        file.add([ONE, TWO])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with PredictionFile(path, settings={}) as file:
        assert file.predictions == {ONE.key: ONE}
        file.add([TWO])
    assert path.read_bytes() == whole


def test_a_line_that_does_not_fit_onto_the_disk_is_not_begun(tmp_path, disk_of):
    path = tmp_path / "p.jsonl"
    with PredictionFile(path, settings={}) as file:
        file.add([ONE])
        whole = path.read_bytes()
        with (
            disk_of(len(whole) + 10),
            pytest.raises(VilaHDError, match=r"cannot write .* nothing before is lost"),
        ):
            file.add([TWO])
        assert path.read_bytes() == whole
        file.add([TWO])  # there is room again
    with PredictionFile(path, settings={}) as file:
        assert file.predictions == {ONE.key: ONE, TWO.key: TWO}


def test_other_settings_are_refused_naming_the_difference(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionFile(path, settings={"model": "a", "dtype": "auto"}):
        pass
    with pytest.raises(VilaHDError, match=r"has model='a', asked for 'b'.*--out"):
        PredictionFile(path, settings={"model": "b", "dtype": "auto"})


@pytest.mark.parametrize("content", ["hello\n", "{}\n", '{"settings": {}}\n{"uid": 1}\n'])
def test_another_kind_of_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(VilaHDError, match="is no prediction"):
        PredictionFile(path, settings={})
    assert path.read_text() == content


def test_a_path_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VilaHDError, match="cannot write"):
        PredictionFile(tmp_path / "file" / "p.jsonl", settings={})
