"""Rows of a public dataset: from the Hugging Face hub (or its cache) or from local files with its columns."""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import import_optional

BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}
"""Suffix of local files -> reader of ``datasets``."""


class Rows:
    """Rows of one split. Pictures stay encoded, and unread, until :meth:`pictures` asks for them.

    Args:
        dataset: a ``datasets.Dataset``.
        picture_columns: columns that hold pictures.
        folder: where relative paths of pictures begin.
        revision: which version of the data it is.
    """

    def __init__(self, dataset: Any, picture_columns: Sequence[str], folder: Path, revision: str) -> None:
        datasets = _datasets()
        for name, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(name, datasets.Image(decode=False))
        present = [name for name in picture_columns if name in dataset.column_names]
        self.columns: tuple[str, ...] = tuple(dataset.column_names)
        self.revision = revision
        self._texts = dataset.remove_columns(present)
        self._pictures = dataset.select_columns(present) if present else None
        self._folder = folder

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Everything of a row but its pictures."""
        row: dict[str, Any] = self._texts[index]
        return row

    def pictures(self, index: int, columns: Sequence[str]) -> tuple[Image.Image, ...]:
        """Pictures of a row in RGB, in the order of ``columns``; empty cells are left out.

        Raises:
            VilaHDError: there is none, or one cannot be read.
        """
        row = {} if self._pictures is None else self._pictures[index]
        found = [
            _open_picture(row[name], self._folder, f"row {index}, column {name!r}")
            for name in columns
            if row.get(name) is not None
        ]
        if not found:
            raise VilaHDError(f"row {index} has no picture in {', '.join(columns)}")
        return tuple(found)


def _datasets() -> Any:
    return import_optional("datasets", extra="eval", purpose="reading public benchmarks")


def _open_picture(value: Any, folder: Path, where: str) -> Image.Image:
    """A picture from encoded bytes, a path, or (HR-Bench and others) base64 text."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    shown = repr(value[:60]) if isinstance(value, str) else type(value).__name__
    try:
        if isinstance(value, str):
            # Base64 of any picture is longer than file systems allow for a name.
            path = folder / value if len(value) < 1024 else None
            value = path.read_bytes() if path and path.is_file() else base64.b64decode(value, validate=True)
        return Image.open(io.BytesIO(value)).convert("RGB")
    except (OSError, TypeError, binascii.Error, Image.DecompressionBombError) as error:
        raise VilaHDError(
            f"{where}: no picture in {shown}; expected an encoded one, base64 text or a path below {folder}"
        ) from error


@lru_cache(maxsize=4)
def open_hub(dataset: str, config: str, split: str, revision: str, picture_columns: tuple[str, ...]) -> Rows:
    """Rows of a split of a dataset of the hub; downloaded unless the cache has them.

    Raises:
        VilaHDError: it can neither be found in the cache nor fetched.
    """
    datasets = _datasets()
    try:
        found = datasets.load_dataset(dataset, config or None, split=split, revision=revision or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        pinned = f" --revision {revision}" if revision else ""
        raise VilaHDError(
            f"dataset {dataset!r} (config {config or 'default'!r}, split {split!r}) is not on this machine "
            f"and cannot be fetched ({reason[:160]}): where there is network, hf download --repo-type "
            f"dataset {dataset}{pinned} --local-dir DIR, then give --data DIR"
        ) from error
    sources = " ".join(map(str, found.info.download_checksums or {}))
    commit = re.search(r"@([0-9a-f]{40})", sources)
    return Rows(found, picture_columns, Path.cwd(), commit[1] if commit else revision or found._fingerprint)


@lru_cache(maxsize=4)
def open_folder(data: Path, name: str, config: str, split: str, picture_columns: tuple[str, ...]) -> Rows:
    """Rows of local files: of ``data/name`` when that exists, else of ``data``.

    A copy of the hub's repository works as it is: where there is a folder ``config`` or files whose names
    begin with ``split``, only those are read.

    Raises:
        VilaHDError: no file to read, files of several kinds, or one is damaged.
    """
    folder = next((path for path in (data / name, data) if path.is_dir()), None)
    if folder is None:
        raise VilaHDError(f"--data {data}: no such folder")
    files = _files(folder, config, split)
    if not files:
        read = ", ".join(BUILDERS)
        raise VilaHDError(f"{folder} has no {read} file: give the folder of {name!r} with --data")
    kinds = {path.suffix for path in files}
    if len(kinds) > 1:
        raise VilaHDError(f"{folder} mixes {' and '.join(sorted(kinds))} files: keep one kind")
    kind = kinds.pop()
    datasets = _datasets()
    options: dict[str, Any] = {"sep": "\t"} if kind == ".tsv" else {}
    try:
        found = datasets.load_dataset(
            BUILDERS[kind], data_files=[str(path) for path in files], split="train", **options
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise VilaHDError(f"cannot read {files[0]} ({reason[:160]})") from error
    return Rows(found, picture_columns, folder, _fingerprint(files))


def _files(folder: Path, config: str, split: str) -> list[Path]:
    """Files of a split below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in BUILDERS and path.is_file())
    for belongs in (
        lambda path: config in path.relative_to(folder).parts[:-1],
        lambda path: re.match(rf"{re.escape(split)}(?![a-z0-9])", path.name) is not None,
    ):
        files = [path for path in files if belongs(path)] or files
    return files


def _fingerprint(files: Sequence[Path]) -> str:
    """A short hash of names, sizes and first megabytes."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
