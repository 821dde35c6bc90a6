"""Picture references of data files, confined to the media folder."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .problems import DataError, brief
from .rows import ImageReference

PICKLES = (".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".bin", ".joblib")
"""Ends of names of files that may run code when they are opened."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def refuse_pickles(name: str) -> None:
    """Pass when a file can be opened without running code from it.

    Raises:
        DataError: its name says that it cannot.
    """
    if name.lower().endswith(PICKLES):
        raise DataError(
            f"{name}: pickles and arrays of objects can run code when they are opened, so they are not read; "
            "write rows as JSONL or parquet, and pictures as PNG or JPEG",
            kind="image path",
        )


def make_reference(value: Any, media: Path, *, check_files: bool) -> ImageReference:
    """The picture that a data file means.

    Args:
        value: a path relative to the media folder; ``data:image/...;base64,...``; a mapping with ``bytes`` or
            ``path``, as the ``datasets`` package stores pictures; bytes of a file; or a PIL picture.
        media: the media folder.
        check_files: whether a file must exist now.

    Raises:
        DataError: something else, a path that leaves the media folder, or a missing file.
    """
    if isinstance(value, Image.Image):
        return ImageReference(str(getattr(value, "filename", "") or "picture in memory"), value)
    if isinstance(value, bytes):
        return ImageReference("picture given as bytes", value)
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return ImageReference(
                path if isinstance(path, str) and path else "picture given as bytes", content
            )
        if isinstance(path, str):
            return make_reference(path, media, check_files=check_files)
    if not isinstance(value, str):
        raise DataError(
            f"image {brief(value)}; give a file name relative to the media folder",
            kind="image path",
        )
    if match := _DATA_URL.match(value):
        return _from_base64(value[match.end() :])
    return ImageReference(value, _confine(value, media, check_files=check_files))


def _from_base64(text: str) -> ImageReference:
    try:
        return ImageReference("picture given as base64", base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"image: the base64 text is damaged ({error}); encode it again", kind="image broken"
        ) from error


def _is_encodable(name: str) -> bool:
    """Whether the file system can have such a name."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _confine(name: str, media: Path, *, check_files: bool) -> Path:
    """The file ``name`` inside of ``media``. Links that lie in the media folder are followed."""
    if not name.strip() or "\0" in name or not _is_encodable(name):
        raise DataError(
            f"image {brief(name)} is no file name; give one or leave the key out", kind="image path"
        )
    if "://" in name or name.startswith("data:"):
        raise DataError(
            f"image {brief(name)}: addresses are not fetched; download the picture and give its file name",
            kind="image path",
        )
    refuse_pickles(name)
    root = os.path.abspath(media)
    path = os.path.normpath(os.path.join(root, name))
    if os.path.commonpath([root, path]) != root or path == root:
        raise DataError(
            f"image {name!r:.200} lies outside of the media folder {str(media)!r}; give a path inside "
            "of it, or another folder with --media",
            kind="image path",
        )
    if check_files and not os.path.isfile(path):
        raise DataError(
            f"image {name!r:.200}: there is no file {path!r:.300}; check the name and the folder (--media)",
            kind="image missing",
        )
    return Path(path)
