"""Files of rows, read one row at a time: JSON arrays, JSONL, parquet, arrow and WebDataset tars.

Every reader yields ``(source, value)``; a value is a mapping, anything else that stands in its place, or the
``DataError`` that says why there is none.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import import_optional
from vila_hd.utils.text import one_line

from .media import refuse_pickles
from .problems import DataError, Record, Source
from .tars import iterate_tar

MAX_ROW_BYTES = 64 * 2**20
"""Longest row of a text file: more is a broken file, or pictures that should be files of their own."""

CHUNK = 2**18
"""Characters that are read at once."""

HEAD = 2**16
"""Bytes in which a JSON file must begin."""

SHARDS = (".parquet", ".arrow", ".tar")
"""Kinds of files that a folder of shards may hold."""

BATCH = 16
"""Rows of a parquet file that are in memory at once."""


def iterate_records(path: Path) -> Iterator[Record]:
    """Rows of a file, or of all row files of a folder in the order of their names.

    Raises:
        DataError: no such file, one of another kind, or one that may run code.
    """
    if path.is_dir():
        return _renumber(record for file in shards_of(path) for record in iterate_records(file))
    suffix = check_kind(path)
    if suffix in (".json", ".jsonl"):
        return _iterate_json(path)
    return iterate_tar(path) if suffix == ".tar" else _iterate_columns(path, suffix)


def shards_of(folder: Path) -> list[Path]:
    """Row files of a folder in the order of their names.

    Raises:
        DataError: there is none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix in SHARDS and p.is_file())
    if not files:
        raise DataError(
            f"{folder}: a folder without parquet, arrow or tar files; give the file of rows itself"
        )
    return files


def check_kind(path: Path) -> str:
    """Suffix of a row file that can be read.

    Raises:
        DataError: no such file, one of another kind, or one that may run code.
    """
    refuse_pickles(str(path))
    if not path.exists():
        raise DataError(f"{path}: no such file; check the name")
    suffix = path.suffix.lower()
    if suffix not in (".json", ".jsonl", *SHARDS):
        raise DataError(
            f"{path}: unknown kind of file; give .json, .jsonl, .parquet, .arrow, .tar or a registry .yaml"
        )
    return suffix


def iterate_mappings(rows: Iterable[Any], name: str = "rows") -> Iterator[Record]:
    """Rows in memory or of another package, such as ``datasets``, as records."""
    for index, row in enumerate(rows):
        yield Source(name, index), row


def _renumber(records: Iterable[Record]) -> Iterator[Record]:
    for index, (source, value) in enumerate(records):
        yield Source(source.file, index, source.line), value


# ---------------------------------------------------------------- JSON


def _iterate_json(path: Path) -> Iterator[Record]:
    """An array, or one object per line."""
    try:
        yield from _iterate_array(path) if is_array(path) else _iterate_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", kind="broken file") from error


def is_array(path: Path) -> bool:
    """Whether a file holds a JSON array; the first character tells."""
    with path.open("rb") as file:
        return file.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _iterate_lines(path: Path) -> Iterator[Record]:
    for source, line, _ in iterate_lines(path):
        yield source, line if isinstance(line, DataError) else parse_line(line, source)


def iterate_lines(path: Path) -> Iterator[tuple[Source, bytes | DataError, tuple[int, int]]]:
    """Lines with rows, not parsed, each with the bytes of the file that it stands in."""
    index, stop = 0, 0
    with path.open("rb") as file:
        for number in range(1, 2**62):
            line = file.readline(MAX_ROW_BYTES + 1)
            if not line:
                return
            start, stop = stop, stop + len(line)
            source = Source(str(path), index, number)
            if len(line) > MAX_ROW_BYTES:
                what = f"a line of more than {MAX_ROW_BYTES} bytes; write one row per line"
                yield source, broken(source, what), (0, 0)
                return
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            if index == 0 and line.strip() == b"{":
                what = (
                    "an object over several lines; write one object per line, or an array that begins with ["
                )
                yield source, broken(source, what), (0, 0)
                return
            yield source, line, (start, stop)
            index += 1


def parse_line(line: bytes, source: Source) -> Any:
    """The value of one line, or the ``DataError`` that says why there is none."""
    try:
        return json.loads(line.decode("utf-8").rstrip())
    except UnicodeDecodeError as error:
        return broken(source, f"byte {error.start} of the line is not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return broken(source, f"not JSON ({_reason(error)}); write one object per line")


def broken(source: Source, what: str) -> DataError:
    """The problem of a file that cannot be read at ``source``."""
    return DataError(what, kind="broken file").at(source, None)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _iterate_array(path: Path) -> Iterator[Record]:
    """Elements of one JSON array, decoded as the file is read."""
    return ((source, value) for source, value, _ in iterate_array(path))


def iterate_array(path: Path) -> Iterator[tuple[Source, Any, tuple[int, int]]]:
    """Elements of one JSON array as records, each with the bytes of the file that it stands in.

    The bytes of what is broken are none.
    """
    # Line ends as they are in the file, so that bytes can be counted.
    with path.open(encoding="utf-8-sig", newline="") as file:
        window = _Window(file, str(path))
        try:
            window.skip("[")
            while not window.ends("]"):
                source, start = window.source(), window.byte
                value = window.decode()
                yield source, value, (start, window.byte)
                window.separate()
            window.finish()
        except DataError as error:
            # What follows a broken element cannot be told apart from it.
            yield window.source(), error, (0, 0)
        except UnicodeDecodeError:
            what = "not UTF-8 from here on; save the file as UTF-8"
            yield window.source(), broken(window.source(), what), (0, 0)


def _has_mark(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == b"\xef\xbb\xbf"


class _Window:
    """The part of a JSON file that is being decoded."""

    def __init__(self, file: Any, name: str) -> None:
        self.file = file
        self.name = name
        self.text = ""
        self.place = 0
        self.index = 0
        self.line = 1
        self.byte = 3 if _has_mark(name) else 0
        self.is_complete = False
        self.decoder = json.JSONDecoder()

    def source(self) -> Source:
        """Where the next element begins."""
        return Source(self.name, self.index, self.line)

    def skip(self, char: str) -> None:
        """Go past ``char``, which must come next."""
        if self._next() != char:
            got = "the end of the file" if self._next() == "" else repr(self._next())
            raise broken(self.source(), f"expected {char!r}, got {got}; mend the JSON array")
        self._pass()

    def ends(self, char: str) -> bool:
        """Whether ``char`` comes next; goes past it if so."""
        if self._next() != char:
            return False
        self._pass()
        return True

    def separate(self) -> None:
        """Go past the comma between two elements, unless the array ends."""
        self.index += 1
        if self._next() != "]":
            self.skip(",")
            if self._next() == "]":
                raise broken(self.source(), "a comma before ]; remove it")

    def finish(self) -> None:
        """Pass when nothing follows the array."""
        if self._next() != "":
            raise broken(
                self.source(), f"{self._next()!r} after the end of the array; remove what follows it"
            )

    def decode(self) -> Any:
        """The element that comes next."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.is_complete:
                    raise broken(self.source(), f"not JSON ({error.msg}); mend the JSON array") from error
            except (ValueError, RecursionError) as error:
                raise broken(self.source(), f"not JSON ({_reason(error)}); mend the JSON array") from error
            else:
                # A number at the end of what was read may go on.
                if end < len(self.text) or self.is_complete:
                    self.line += self.text.count("\n", self.place, end)
                    self.byte += len(self.text[self.place : end].encode())
                    self.place = end
                    return value
            if len(self.text) - self.place > MAX_ROW_BYTES:
                raise broken(
                    self.source(), f"an element of more than {MAX_ROW_BYTES} characters, or broken JSON"
                )
            # As much again as there is, so that long elements are not decoded from their start too often.
            self._read(max(CHUNK, len(self.text) - self.place))

    def _next(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in " \t\r\n":
                self.line += self.text[self.place] == "\n"
                self._pass()
            if self.place < len(self.text) or self.is_complete:
                return self.text[self.place : self.place + 1]
            self._read(CHUNK)

    def _pass(self) -> None:
        """Go past one character of one byte."""
        self.place += 1
        self.byte += 1

    def _read(self, size: int) -> None:
        more = self.file.read(size)
        self.is_complete = not more
        self.text, self.place = self.text[self.place :] + more, 0


# ---------------------------------------------------------------- parquet and arrow


def _iterate_columns(path: Path, suffix: str) -> Iterator[Record]:
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
    except column_errors() as error:
        source = Source(str(path), index)
        yield source, broken_columns(source, error)


def column_errors() -> tuple[type[BaseException], ...]:
    """What pyarrow raises on damaged files."""
    arrow = import_optional("pyarrow", extra="eval", purpose="reading .parquet and .arrow files")
    return (arrow.lib.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)


def broken_columns(source: Source, error: BaseException) -> DataError:
    """The problem of a parquet or arrow file that cannot be read at ``source``."""
    reason = one_line(error)[:160]
    suffix = Path(source.file).suffix[1:]
    return broken(source, f"not readable as {suffix} from here on ({reason}); get the file again")


def _batches(path: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        parquet = import_optional("pyarrow.parquet", extra="eval", purpose="reading .parquet files")
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH)
        return
    yield from open_arrow(path)


def open_arrow(path: Path) -> Iterator[Any]:
    """Batches of an arrow file or stream, mapped, not read."""
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
