"""Files of rows, read one row at a time: JSON arrays, JSONL, parquet and arrow.

Every reader yields ``(source, value)``; a value is a mapping, anything else that stands in its place, or the
``DataError`` that says why there is none.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import import_optional

from .media import refuse_pickles
from .problems import DataError, Source

Record = tuple[Source, Any]

MAX_ROW_BYTES = 64 * 2**20
"""Longest row of a text file: more is a broken file, or pictures that should be files of their own."""

CHUNK = 2**18
"""Characters that are read at once."""

HEAD = 2**16
"""Bytes in which a JSON file must begin."""

BATCH = 16
"""Rows of a parquet file that are in memory at once."""


def iterate_records(path: Path) -> Iterator[Record]:
    """Rows of a file, or of all row files of a folder in the order of their names.

    Raises:
        DataError: no such file, one of another kind, or one that may run code.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".arrow") and p.is_file())
        if not files:
            raise DataError(f"{path}: a folder without parquet or arrow files; give the file of rows itself")
        return _renumber(record for file in files for record in iterate_records(file))
    refuse_pickles(str(path))
    if not path.exists():
        raise DataError(f"{path}: no such file; check the name")
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        return _iterate_json(path)
    if suffix in (".parquet", ".arrow"):
        return _iterate_columns(path, suffix)
    raise DataError(f"{path}: unknown kind of file; give .json, .jsonl, .parquet, .arrow or a registry .yaml")


def iterate_mappings(rows: Iterable[Any], name: str = "rows") -> Iterator[Record]:
    """Rows in memory or of another package, such as ``datasets``, as records."""
    for index, row in enumerate(rows):
        yield Source(name, index), row


def _renumber(records: Iterable[Record]) -> Iterator[Record]:
    for index, (source, value) in enumerate(records):
        yield Source(source.file, index, source.line), value


# ---------------------------------------------------------------- JSON


def _iterate_json(path: Path) -> Iterator[Record]:
    """An array, or one object per line; the first character tells."""
    try:
        with path.open("rb") as file:
            first = file.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        yield from _iterate_array(path) if first == b"[" else _iterate_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", kind="broken file") from error


def _iterate_lines(path: Path) -> Iterator[Record]:
    index = 0
    with path.open("rb") as file:
        for number in range(1, 2**62):
            line = file.readline(MAX_ROW_BYTES + 1)
            if not line:
                return
            source = Source(str(path), index, number)
            if len(line) > MAX_ROW_BYTES:
                yield (
                    source,
                    _broken(source, f"a line of more than {MAX_ROW_BYTES} bytes; write one row per line"),
                )
                return
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            if index == 0 and line.strip() == b"{":
                what = (
                    "an object over several lines; write one object per line, or an array that begins with ["
                )
                yield source, _broken(source, what)
                return
            yield source, _parse(line, source)
            index += 1


def _parse(line: bytes, source: Source) -> Any:
    try:
        return json.loads(line.decode("utf-8").rstrip())
    except UnicodeDecodeError as error:
        return _broken(source, f"byte {error.start} of the line is not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return _broken(source, f"not JSON ({_reason(error)}); write one object per line")


def _broken(source: Source, what: str) -> DataError:
    return DataError(what, kind="broken file").at(source, None)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _iterate_array(path: Path) -> Iterator[Record]:
    """Elements of one JSON array, decoded as the file is read."""
    with path.open(encoding="utf-8-sig") as file:
        window = _Window(file, str(path))
        try:
            window.skip("[")
            while not window.ends("]"):
                yield window.source(), window.decode()
                window.separate()
            window.finish()
        except DataError as error:
            # What follows a broken element cannot be told apart from it.
            yield window.source(), error
        except UnicodeDecodeError:
            yield window.source(), _broken(window.source(), "not UTF-8 from here on; save the file as UTF-8")


class _Window:
    """The part of a JSON file that is being decoded."""

    def __init__(self, file: Any, name: str) -> None:
        self.file = file
        self.name = name
        self.text = ""
        self.place = 0
        self.index = 0
        self.line = 1
        self.is_complete = False
        self.decoder = json.JSONDecoder()

    def source(self) -> Source:
        """Where the next element begins."""
        return Source(self.name, self.index, self.line)

    def skip(self, char: str) -> None:
        """Go past ``char``, which must come next."""
        if self._next() != char:
            got = "the end of the file" if self._next() == "" else repr(self._next())
            raise _broken(self.source(), f"expected {char!r}, got {got}; mend the JSON array")
        self.place += 1

    def ends(self, char: str) -> bool:
        """Whether ``char`` comes next; goes past it if so."""
        if self._next() != char:
            return False
        self.place += 1
        return True

    def separate(self) -> None:
        """Go past the comma between two elements, unless the array ends."""
        self.index += 1
        if self._next() != "]":
            self.skip(",")
            if self._next() == "]":
                raise _broken(self.source(), "a comma before ]; remove it")

    def finish(self) -> None:
        """Pass when nothing follows the array."""
        if self._next() != "":
            raise _broken(
                self.source(), f"{self._next()!r} after the end of the array; remove what follows it"
            )

    def decode(self) -> Any:
        """The element that comes next."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.is_complete:
                    raise _broken(self.source(), f"not JSON ({error.msg}); mend the JSON array") from error
            except (ValueError, RecursionError) as error:
                raise _broken(self.source(), f"not JSON ({_reason(error)}); mend the JSON array") from error
            else:
                # A number at the end of what was read may go on.
                if end < len(self.text) or self.is_complete:
                    self.line += self.text.count("\n", self.place, end)
                    self.place = end
                    return value
            if len(self.text) - self.place > MAX_ROW_BYTES:
                raise _broken(
                    self.source(), f"an element of more than {MAX_ROW_BYTES} characters, or broken JSON"
                )
            # As much again as there is, so that long elements are not decoded from their start too often.
            self._read(max(CHUNK, len(self.text) - self.place))

    def _next(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in " \t\r\n":
                self.line += self.text[self.place] == "\n"
                self.place += 1
            if self.place < len(self.text) or self.is_complete:
                return self.text[self.place : self.place + 1]
            self._read(CHUNK)

    def _read(self, size: int) -> None:
        more = self.file.read(size)
        self.is_complete = not more
        self.text, self.place = self.text[self.place :] + more, 0


# ---------------------------------------------------------------- parquet and arrow


def _iterate_columns(path: Path, suffix: str) -> Iterator[Record]:
    arrow = import_optional("pyarrow", extra="eval", purpose=f"reading {suffix} files")
    index = 0
    try:
        for batch in _batches(path, suffix):
            # Places inside of a damaged column may point anywhere: without this, reading them can crash.
            batch.validate(full=True)
            for start in range(0, batch.num_rows, BATCH):
                for record in batch.slice(start, BATCH).to_pylist():
                    yield Source(str(path), index), record
                    index += 1
    except VilaHDError:
        raise
    except (arrow.lib.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        source = Source(str(path), index)
        reason = " ".join(str(error).split())[:160]
        yield (
            source,
            _broken(source, f"not readable as {suffix[1:]} from here on ({reason}); get the file again"),
        )


def _batches(path: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        parquet = import_optional("pyarrow.parquet", extra="eval", purpose="reading .parquet files")
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH)
        return
    arrow = import_optional("pyarrow", extra="eval", purpose="reading .arrow files")
    ipc = import_optional("pyarrow.ipc", extra="eval", purpose="reading .arrow files")
    # Mapped, so that a damaged length is compared with the file instead of being allocated.
    with arrow.memory_map(str(path)) as source:
        # The datasets package writes streams; other programs write files.
        if source.read(6) == b"ARROW1":
            with ipc.open_file(source) as file:
                for number in range(file.num_record_batches):
                    yield file.get_batch(number)
        else:
            source.seek(0)
            with ipc.open_stream(source) as stream:
                yield from stream
