"""WebDataset tars: files that share a name up to the first dot are one row.

``NAME.json`` is a row of any format. The files of the name that are pictures are its pictures, in the order
of the archive. Without a ``.json``, ``NAME.txt`` is the caption of the pictures.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .problems import DataError, Record, Source

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".img")
"""Ends of names of pictures; wids writes ``.img``."""

MAX_MEMBER_BYTES = 2**28
"""Longest file in an archive that is read."""


@dataclass(frozen=True)
class Member:
    """One file in an archive."""

    suffix: str
    """What follows the first dot of its name, in lower case, with a dot in front."""

    start: int
    size: int


@dataclass(frozen=True)
class Group:
    """The files of one row."""

    key: str
    members: tuple[Member, ...]


EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
"""Kinds of members that describe the next one; tarfile reads them as a whole."""

MAX_EXTENDED_BYTES = 2**20


class CheckedHeader(tarfile.TarInfo):
    """A header whose size is one: with others, tarfile reads the same place for ever, or takes all memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in EXTENDED and header.size > MAX_EXTENDED_BYTES):
            raise tarfile.ReadError(f"a member of {header.size} bytes")
        return header


def iterate_tar(path: Path) -> Iterator[Record]:
    """Rows of an archive."""
    index = 0
    try:
        for group in scan_tar(path):
            yield read_group(path, group, index)
            index += 1
    except DataError as error:
        yield Source(str(path), index), error


def scan_tar(path: Path) -> Iterator[Group]:
    """The rows of an archive, from its headers alone.

    Raises:
        DataError: no archive, a compressed or a damaged one.
    """
    key: str | None = None
    members: list[Member] = []
    number = 0
    try:
        with tarfile.open(path, "r:", tarinfo=CheckedHeader) as archive:
            for entry in archive:
                if entry.size < 0:  # from an extended header, which is read later
                    raise tarfile.ReadError(f"a member of {entry.size} bytes")
                if not entry.isfile() or entry.issparse():
                    continue
                folder, _, name = entry.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not stem or name.startswith("wids-meta"):
                    continue
                if (full := f"{folder}/{stem}") != key:
                    if key is not None:
                        yield Group(key, tuple(members))
                        number += 1
                    key, members = full, []
                members.append(Member(f"{dot}{suffix}".lower(), entry.offset_data, entry.size))
    except (tarfile.TarError, OSError, ValueError, EOFError, LookupError, OverflowError) as error:
        source = Source(str(path), number)
        what = f"not readable as an uncompressed tar from here on ({error}); get the file again or unpack it"
        raise DataError(what, kind="broken file").at(source, None) from error
    if key is not None:
        yield Group(key, tuple(members))


def read_group(path: Path, group: Group, index: int) -> Record:
    """The row of a group."""
    source = Source(str(path), index)
    try:
        with path.open("rb") as file:
            return source, _read(file, group)
    except OSError as error:
        problem = DataError(f"cannot be read ({error.strerror or error})", kind="broken file")
    except DataError as error:
        problem = error
    return source, problem.at(source, group.key.strip("/"))


def _read(file: Any, group: Group) -> Any:
    texts = {
        member.suffix: _content(file, member)
        for member in group.members
        if member.suffix in (".json", ".txt")
    }
    pictures = [
        {"bytes": _content(file, member), "path": f"{group.key.strip('/')}{member.suffix}"}
        for member in group.members
        if any(member.suffix.endswith(end) for end in PICTURES)
    ]
    if ".json" in texts:
        try:
            row = json.loads(texts[".json"])
        except (ValueError, RecursionError) as error:
            raise DataError(f"its .json is no JSON ({str(error)[:120]})", kind="broken file") from error
        if not isinstance(row, Mapping):
            return row
        row = {"id": group.key.strip("/"), **row}
        if not pictures:
            return row
        # Names of the files that were put into the archive are of no use any more.
        return {**row, "image": None, "images": pictures}
    if ".txt" in texts:
        try:
            caption = texts[".txt"].decode()
        except UnicodeDecodeError as error:
            raise DataError(f"its .txt is not UTF-8 (byte {error.start})", kind="broken text") from error
        shown = "<image>" * len(pictures)
        return {
            "id": group.key.strip("/"),
            "images": pictures,
            "conversations": [{"from": "human", "value": shown}, {"from": "gpt", "value": caption}],
        }
    raise DataError("neither a .json nor a .txt: nothing says what to learn", kind="form")


def _content(file: Any, member: Member) -> bytes:
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{member.suffix} of {member.size} bytes, more than {MAX_MEMBER_BYTES}", kind="broken file"
        )
    file.seek(member.start)
    content: bytes = file.read(member.size)
    if len(content) < member.size:
        raise DataError(f"{member.suffix} is cut off; get the file again", kind="broken file")
    return content
