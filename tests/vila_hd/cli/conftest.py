"""A tiny random model in a folder, and copies of it to damage."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from vila_hd.testing import tiny_model, tiny_picture, tiny_processor


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good_folder, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(good_folder, tmp_path / "damaged"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "picture.png"
    tiny_picture(120, 90).save(path)
    return path


@pytest.fixture(scope="session")
def wide_picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "wide.png"
    Image.new("RGB", (500, 3), "red").save(path)
    return path
