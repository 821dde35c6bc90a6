"""Pictures come from the media folder and from nowhere else."""

from pathlib import Path

import pytest

from llava_compat.data import DataError
from llava_compat.data.media import make_reference


@pytest.mark.parametrize("name", ["a.png", "./a.png", "deep/../a.png", "deep/c.png", "deep//c.png"])
def test_paths_inside(name: str, media: Path) -> None:
    assert make_reference(name, media, check_files=True).open().mode == "RGB"


def test_an_absolute_path_inside(media: Path) -> None:
    assert make_reference(str(media / "a.png"), media, check_files=True).size() == (40, 30)


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "deep/../../a.png",
        "/etc/passwd",
        "..",
        ".",
        "deep/../..",
        "a.png/../../x",
        "/",
        "//etc/passwd",
    ],
)
@pytest.mark.parametrize("check_files", [True, False])
def test_paths_outside_are_refused(name: str, check_files: bool, media: Path) -> None:
    with pytest.raises(DataError, match="outside of the media folder") as caught:
        make_reference(name, media, check_files=check_files)
    assert caught.value.kind == "image path"


def test_a_folder_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="outside of the media folder"):
        make_reference("../media2/a.png", tmp_path / "media", check_files=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no file name"),
        (" ", "is no file name"),
        ("a\0.png", "is no file name"),
        ("a\ud800.png", "is no file name"),
        ("https://example.com/a.png", "addresses are not fetched"),
        ("file:///etc/passwd", "addresses are not fetched"),
        ("data:text/html;base64,AA==", "addresses are not fetched"),
        ("x.pkl", "can run code"),
        ("x.NPY", "can run code"),
        ("x" * 5000 + ".png", "there is no file"),
    ],
)
def test_other_names_are_refused(name: str, words: str, media: Path) -> None:
    with pytest.raises(DataError, match=words):
        make_reference(name, media, check_files=True)


def test_files_may_come_later(tmp_path: Path) -> None:
    reference = make_reference("later.png", tmp_path, check_files=False)
    with pytest.raises(DataError, match=r"later.png: no such file"):
        reference.open()
