"""Tar shards of samples (webdataset layout): ``<key>.<extension>`` members, equal keys belong together.

Shards are read at random places without unpacking them; they are written complete or not at all.
"""

import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from llava_compat.data.tars import CheckedHeader
from vila_hd.errors import VilaHDError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tiff", "tif")

INDEX_NAME = "shards.json"
"""File next to shards that were written here: the number of samples in each, so that opening is instant."""

SEPARATOR = "::"
"""Between several patterns in one text, as in webdataset."""

_BRACES = re.compile(r"\{([^{}]+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Place(NamedTuple):
    """Where a member's bytes are in its shard."""

    offset: int
    size: int


Sample = Mapping[str, Place]
"""Extension (lower case, without dot) -> place."""


def expand_braces(pattern: str) -> list[str]:
    """Every text that ``{a,b}`` and ``{000..012}`` in ``pattern`` stand for, in order."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    if numbers := _RANGE.fullmatch(match[1]):
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [str(i).zfill(width) for i in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return list(itertools.chain.from_iterable(expand_braces(head + choice + tail) for choice in choices))


def find_shards(spec: str) -> list[Path]:
    """Shards of a folder, a pattern, or several of them joined by ``::``.

    Raises:
        VilaHDError: a named shard does not exist, or there is none at all.
    """
    found: list[Path] = []
    for pattern in itertools.chain.from_iterable(expand_braces(part) for part in spec.split(SEPARATOR)):
        path = Path(pattern)
        if path.is_dir():
            names = sorted(entry for entry in path.iterdir() if entry.suffix == ".tar")
        elif glob.has_magic(pattern):
            names = [Path(name) for name in sorted(glob.glob(pattern))]
        else:
            names = [path]
        missing = [name for name in names if not name.is_file()]
        if missing or not names:
            raise VilaHDError(f"{missing[0] if missing else pattern}: no such shard; check the path {spec!r}")
        found += names
    return found


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: everything before and after the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def scan_shard(path: Path) -> dict[str, dict[str, Place]]:
    """Samples of a shard by key, in the order of the file.

    Raises:
        VilaHDError: it is no uncompressed tar file, or it is cut off.
    """
    samples: dict[str, dict[str, Place]] = {}
    for _, member in _iterate_archive(path):
        key, extension = split_name(member.name)
        samples.setdefault(key, {})[extension] = Place(member.offset_data, member.size)
    return samples


def iterate_members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of every regular member, read once from front to back.

    Raises:
        VilaHDError: it is no uncompressed tar file, or it is cut off.
    """
    for archive, member in _iterate_archive(path):
        file = archive.extractfile(member)
        assert file is not None
        yield *split_name(member.name), file.read()


def _iterate_archive(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Regular members; a file that ends before the mark at its end is refused."""
    end = 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:", tarinfo=CheckedHeader) as archive:
            for member in archive:
                if member.size < 0:  # from an extended header, which is read later
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if end > size:
                    raise VilaHDError(f"{path}: cut off inside {member.name!r}; get the shard again")
                if member.isreg():
                    yield archive, member
        if size < end + tarfile.BLOCKSIZE:
            raise VilaHDError(f"{path}: cut off after {end} bytes; get the shard again")
    except (tarfile.TarError, OSError, ValueError, EOFError, LookupError, OverflowError) as error:
        if isinstance(error, VilaHDError):
            raise
        raise VilaHDError(f"{path}: not a readable uncompressed .tar shard ({error})") from error


def read_at(path: Path, place: Place) -> bytes:
    """The bytes of one member.

    Raises:
        VilaHDError: the file changed or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = os.pread(file.fileno(), place.size, place.offset)
    except OSError as error:
        raise VilaHDError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) != place.size:
        raise VilaHDError(f"{path}: {len(content)} of {place.size} bytes at {place.offset}; it changed")
    return content


def is_image(extension: str) -> bool:
    """Whether members of this extension are pictures."""
    return extension in IMAGE_EXTENSIONS


def count_samples(shards: Sequence[Path], *, marker: str = "json") -> list[int]:
    """Number of samples with a ``marker`` member in every shard: from ``shards.json`` beside it, else
    counted."""
    indexes: dict[Path, dict[str, int]] = {}
    counts = []
    for shard in shards:
        if shard.parent not in indexes:
            indexes[shard.parent] = read_index(shard.parent)
        known = indexes[shard.parent].get(shard.name)
        if known is None:
            known = sum(marker in sample for sample in scan_shard(shard).values())
        counts.append(known)
    return counts


def read_index(folder: Path) -> dict[str, int]:
    """Shard name -> samples, of the shards in ``folder`` that were finished; empty without an index.

    Raises:
        VilaHDError: the index is damaged.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return {str(row["name"]): int(row["samples"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise VilaHDError(f"{path}: damaged index ({error}); remove it to have shards counted") from error


def _write_index(folder: Path, counts: Mapping[str, int]) -> None:
    rows = [{"name": name, "samples": counts[name]} for name in sorted(counts)]
    partial = folder / (INDEX_NAME + ".partial")
    partial.write_text(json.dumps({"shards": rows}, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / INDEX_NAME)


class ShardWriter:
    """Writes one shard under a temporary name; leaving the ``with`` block normally gives it its own."""

    def __init__(self, path: Path) -> None:
        """Start ``path``; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.samples = 0
        self._archive = tarfile.open(self.partial, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """One sample: extension -> content."""
        for extension, content in members.items():
            member = tarfile.TarInfo(f"{key}.{extension}")  # time, owner and mode are always the same
            member.size = len(content)
            self._archive.addfile(member, io.BytesIO(content))
        self.samples += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()
        if kind is not None:
            self.partial.unlink(missing_ok=True)
            return
        self.partial.replace(self.path)
        _write_index(self.path.parent, {**read_index(self.path.parent), self.path.name: self.samples})
