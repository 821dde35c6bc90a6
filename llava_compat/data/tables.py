"""Files of rows with access by number, for training: an index of places is in memory, the rows are not.

The numbers are those of ``iterate_records``. A table may be handed to other processes by forking: no file is
open between two reads.
"""

import bisect
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import import_optional

from .files import (
    broken_columns,
    check_kind,
    column_errors,
    is_array,
    iterate_array,
    iterate_lines,
    open_arrow,
    parse_line,
    shards_of,
)
from .problems import DataError, Record, Source
from .tars import Group, read_group, scan_tar

KEPT_GROUPS = 4
"""Row groups of a parquet file that stay in memory."""


class Table(ABC):
    """Rows by number."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows, broken ones included."""

    @abstractmethod
    def read(self, number: int) -> Record:
        """Row ``number``; what is wrong with it is in the record, as ``iterate_records`` gives it."""

    @property
    def group_sizes(self) -> Sequence[int] | None:
        """Rows that are read together, group by group; None: every row by itself."""
        return None


class GroupCache:
    """The row groups that were read last."""

    def __init__(self, capacity: int = KEPT_GROUPS) -> None:
        self.capacity = capacity
        self.groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def get(self, path: Path, group: int, load: Callable[[], Any]) -> Any:
        """A row group, loaded if it is not there."""
        if (path, group) not in self.groups:
            while len(self.groups) >= self.capacity:
                self.groups.popitem(last=False)
            self.groups[path, group] = load()
        self.groups.move_to_end((path, group))
        return self.groups[path, group]


def open_table(path: Path, cache: GroupCache | None = None) -> Table:
    """Table of a file, or of all row files of a folder in the order of their names.

    Args:
        path: the file or folder.
        cache: keeps row groups of several tables that are read alternately; None: one of its own.

    Raises:
        DataError: no such file, one of another kind, or one that may run code.
    """
    if path.is_dir():
        cache = cache or GroupCache()
        return Tables([open_table(file, cache) for file in shards_of(path)])
    suffix = check_kind(path)
    try:
        if suffix in (".json", ".jsonl"):
            return TextTable(path)
        if suffix == ".tar":
            return TarTable(path)
        return ParquetTable(path, cache or GroupCache()) if suffix == ".parquet" else ArrowTable(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", kind="broken file") from error


class TextTable(Table):
    """A JSON array or JSONL. Opening reads the file once; an entry of the index takes 24 bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        scan = iterate_array(path) if is_array(path) else iterate_lines(path)
        self.problems: dict[int, DataError] = {}
        self.places = np.fromiter(self._scan(scan), dtype=np.dtype((np.int64, 3)))

    def _scan(self, scan: Iterator[tuple[Source, Any, tuple[int, int]]]) -> Iterator[tuple[int, int, int]]:
        for source, value, (start, stop) in scan:
            if isinstance(value, DataError) and stop == 0:
                self.problems[source.index] = value
            yield start, stop, source.line or 0

    def __len__(self) -> int:
        return len(self.places)

    def read(self, number: int) -> Record:
        """See ``Table``."""
        start, stop, line = (int(value) for value in self.places[number])
        source = Source(str(self.path), number, line)
        if number in self.problems:
            return source, self.problems[number]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                content = file.read(stop - start)
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            return source, DataError(what, kind="broken file").at(source, None)
        return source, parse_line(content.removeprefix(b"\xef\xbb\xbf"), source)


class TarTable(Table):
    """An uncompressed WebDataset tar. Opening reads its headers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.groups: list[Group] = []
        self.problem: DataError | None = None
        try:
            self.groups.extend(scan_tar(path))
        except DataError as error:
            self.problem = error

    def __len__(self) -> int:
        return len(self.groups) + (self.problem is not None)

    def read(self, number: int) -> Record:
        """See ``Table``."""
        if number == len(self.groups) and self.problem is not None:
            return Source(str(self.path), number), self.problem
        return read_group(self.path, self.groups[number], number)


class ParquetTable(Table):
    """A parquet file, read by row group: rows of few groups at a time are cheap, jumps are not."""

    def __init__(self, path: Path, cache: GroupCache) -> None:
        self.path = path
        self.cache = cache
        try:
            with self._open() as file:
                meta = file.metadata
                self.sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        except column_errors() as error:
            if isinstance(error, VilaHDError):
                raise
            raise broken_columns(Source(str(path), 0), error) from error
        self.stops = np.cumsum(self.sizes, dtype=np.int64).tolist()

    def _open(self) -> Any:
        parquet = import_optional("pyarrow.parquet", extra="eval", purpose="reading .parquet files")
        return parquet.ParquetFile(self.path)

    def __len__(self) -> int:
        return self.stops[-1] if self.stops else 0

    @property
    def group_sizes(self) -> Sequence[int] | None:
        """Rows of each row group."""
        return self.sizes

    def read(self, number: int) -> Record:
        """See ``Table``."""
        group = bisect.bisect_right(self.stops, number)
        source = Source(str(self.path), number)
        try:
            rows = self.cache.get(self.path, group, lambda: self._load(group))
            return source, rows.slice(number - self.stops[group] + self.sizes[group], 1).to_pylist()[0]
        except column_errors() as error:
            return source, broken_columns(source, error)

    def _load(self, group: int) -> Any:
        with self._open() as file:
            # Threads of a process that was forked from this one would wait for ever.
            rows = file.read_row_group(group, use_threads=False)
        rows.validate(full=True)
        return rows


class ArrowTable(Table):
    """An arrow file or stream, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: DataError | None = None
        self.batches: list[Any] = []
        self.stops: list[int] = []
        try:
            self._map()
        except column_errors() as error:
            if isinstance(error, VilaHDError):
                raise
            self.problem = broken_columns(Source(str(path), len(self)), error)

    def _map(self) -> None:
        rows = 0
        for batch in open_arrow(self.path):
            rows += batch.num_rows
            self.batches.append(batch)
            self.stops.append(rows)

    def __len__(self) -> int:
        return (self.stops[-1] if self.stops else 0) + (self.problem is not None)

    def read(self, number: int) -> Record:
        """See ``Table``."""
        source = Source(str(self.path), number)
        place = bisect.bisect_right(self.stops, number)
        if place == len(self.stops):
            assert self.problem is not None
            return source, self.problem
        batch = self.batches[place]
        try:
            row = batch.slice(number - self.stops[place] + batch.num_rows, 1)
            row.validate(full=True)
            return source, row.to_pylist()[0]
        except column_errors() as error:
            return source, broken_columns(source, error)


class Tables(Table):
    """Tables one after the other as one."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = list(tables)
        self.stops = np.cumsum([len(table) for table in tables], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self.stops[-1] if self.stops else 0

    @property
    def group_sizes(self) -> Sequence[int] | None:
        """Groups of all tables; a table without any is many groups of one row."""
        groups = [table.group_sizes for table in self.tables]
        if all(sizes is None for sizes in groups):
            return None
        pairs = zip(self.tables, groups, strict=True)
        return [size for table, sizes in pairs for size in (sizes or [1] * len(table))]

    def read(self, number: int) -> Record:
        """See ``Table``."""
        place = bisect.bisect_right(self.stops, number)
        table = self.tables[place]
        source, value = table.read(number - self.stops[place] + len(table))
        return Source(source.file, number, source.line), value


class Without(Table):
    """A table without some of its rows."""

    def __init__(self, table: Table, left_out: Sequence[int]) -> None:
        self.table = table
        self.numbers = np.setdiff1d(np.arange(len(table)), np.asarray(left_out, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def group_sizes(self) -> Sequence[int] | None:
        """What is left of each group."""
        sizes = self.table.group_sizes
        if sizes is None:
            return None
        left = np.searchsorted(self.numbers, np.cumsum(sizes, dtype=np.int64))
        return [int(size) for size in np.diff(left, prepend=0) if size]

    def read(self, number: int) -> Record:
        """See ``Table``."""
        return self.table.read(int(self.numbers[number]))
