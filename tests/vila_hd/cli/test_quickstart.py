"""``vila-hd quickstart`` on a tiny model: everything is written and said, right or wrong."""

import pytest
from PIL import Image

from vila_hd import cli
from vila_hd.cli import quickstart
from vila_hd.scenes import SPLITS


@pytest.fixture
def small_scene(monkeypatch):
    """A quarter of the width and height: what is drawn and asked stays the same."""
    from vila_hd.scenes import SceneConfig, make_scene

    monkeypatch.setattr(
        quickstart, "make_scene", lambda seed: make_scene(seed, SceneConfig(size=(1920, 1080)))
    )


def test_everything_is_written_and_said(capsys, good_folder, tmp_path, small_scene):
    out = tmp_path / "quick"
    assert cli.main(["quickstart", "--model", str(good_folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        "lens_1.html", "lens_1.png", "lens_2.html", "lens_3.html", "picture.png"
    ]  # fmt: skip
    assert text.count("\nQ: ") + text.startswith("Q: ") == 3
    assert text.count("visual tokens") == 3
    assert str(out / "lens_1.html") in text
    assert "Try next" in text
    with Image.open(out / "picture.png") as picture:
        assert picture.size == (1920, 1080)


def test_the_default_picture_is_a_held_out_one():
    from vila_hd.scenes import split_seeds

    assert split_seeds("test", 1)[0] not in SPLITS["train"]
    assert split_seeds("test", 1)[0] not in SPLITS["validation"]


def test_the_questions_are_of_different_kinds():
    import numpy as np

    from vila_hd.scenes import make_scene, questions, split_seeds

    for seed in split_seeds("test", 20):
        chosen = quickstart._choose(questions(make_scene(seed), np.random.default_rng(seed)))
        assert [question.kind for question in chosen] == ["mark", "mark", "time"]
        assert len({question.text for question in chosen}) == 3


def test_a_folder_that_cannot_be_written(capsys, tmp_path, good_folder):
    (tmp_path / "file").write_text("")
    assert cli.main(["quickstart", "--out", str(tmp_path / "file" / "sub")]) == 2
    assert "use --out" in capsys.readouterr().err
