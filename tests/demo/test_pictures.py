"""Uploads: checked, kept as files, shown as the model reads them."""

import numpy as np
import pytest
from PIL import Image

from demo.pictures import Limits, take_file
from vila_hd import VilaHDError
from vila_hd.images import open_image


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "session"
    place.mkdir()
    return place


def test_a_picture_of_the_web_is_shown_as_it_is(upload, folder):
    (picture,), remark = take_file(upload("street.jpg", size=(1200, 800)), folder, Limits())
    assert picture.shown == picture.path
    assert (picture.size, picture.name, remark) == ((1200, 800), "street.jpg", "")
    assert max(Image.open(picture.thumbnail).size) == 560


@pytest.mark.parametrize("name", ["scan.tiff", "page.bmp"])
def test_what_browsers_cannot_show_gets_a_copy(upload, folder, name):
    (picture,), _ = take_file(upload(name), folder, Limits())
    assert picture.shown.suffix == ".png"
    assert (np.asarray(Image.open(picture.shown)) == np.asarray(open_image(picture.path))).all()


def test_transparency_is_shown_as_the_model_sees_it(tmp_path, folder):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (20, 10), (255, 0, 0, 0)).save(path)
    (picture,), _ = take_file(path, folder, Limits())
    assert Image.open(picture.shown).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"<html>", "a web page"), (b"\x89PNG\r\n\x1a\n12", "damaged")]
)
def test_other_files_are_refused_by_name_and_leave_nothing(tmp_path, folder, content, reason):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(VilaHDError, match=rf"^odd\.png: .*{reason}"):
        take_file(path, folder, Limits())
    assert list(folder.iterdir()) == []


def test_a_file_that_is_too_large_is_refused_with_both_numbers(upload, folder):
    path = upload("noise.bmp", size=(900, 900))
    with pytest.raises(VilaHDError, match=r"2 MB, more than the 1 MB allowed"):
        take_file(path, folder, Limits(file_megabytes=1))


@pytest.fixture
def pdf(tmp_path):
    """A PDF with pages of 3 : 4, the second one red."""
    path = tmp_path / "paper.pdf"
    pages = [Image.new("RGB", (300, 400), color) for color in ("white", "red", "blue")]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_pages_of_a_pdf_become_4k_pictures(pdf, folder):
    pytest.importorskip("pypdfium2")
    pictures, remark = take_file(pdf, folder, Limits(pages=2))
    assert [picture.name for picture in pictures] == ["paper.pdf, page 1", "paper.pdf, page 2"]
    assert [max(picture.size) for picture in pictures] == [3840, 3840]
    assert remark == "paper.pdf: the first 2 of 3 pages were added."
    assert Image.open(pictures[1].thumbnail).getpixel((9, 9))[0] > 250
    assert Image.open(pictures[1].thumbnail).getpixel((9, 9))[1] < 20


def test_a_damaged_pdf_is_refused(tmp_path, folder):
    pytest.importorskip("pypdfium2")
    path = tmp_path / "odd.pdf"
    path.write_bytes(b"%PDF-1.7 nothing else")
    with pytest.raises(VilaHDError, match=r"^odd\.pdf: not a PDF that can be read"):
        take_file(path, folder, Limits())
