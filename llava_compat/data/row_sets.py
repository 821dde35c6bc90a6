"""Sets of validated rows with access by number."""

from dataclasses import dataclass
from pathlib import Path

from .formats import ReadOptions, make_row
from .problems import DataError
from .registry import Registry, read_slice
from .rows import Row
from .tables import Table, Without, open_table


@dataclass(frozen=True)
class RowSet:
    """Rows of one file or folder, each read and validated when it is asked for."""

    name: str
    table: Table
    options: ReadOptions
    repeats: int = 1
    """How often a mixture wants it."""

    def __len__(self) -> int:
        return len(self.table)

    def row(self, number: int) -> Row:
        """Row ``number``.

        Raises:
            DataError: it cannot be used; says where it stands and why.
        """
        source, value = self.table.read(number)
        if isinstance(value, DataError):
            raise value
        return make_row(value, source, self.options)


def open_rows(path: str | Path, options: ReadOptions | None = None) -> RowSet:
    """Rows of a .json, .jsonl, .parquet, .arrow or .tar file, or of a folder of shards.

    Args:
        path: the file or folder.
        options: how to read; None: pictures lie next to the file.

    Raises:
        DataError: it cannot be opened.
    """
    path = Path(path)
    options = options or ReadOptions(media=path if path.is_dir() else path.parent)
    return RowSet(str(path), open_table(path), options)


def open_mixture(mixture: str, registry: Registry, *, slices: Path | None = None) -> list[RowSet]:
    """The data sets of a mixture, arguments as for ``read_mixture``.

    Raises:
        DataError: an unknown name, or a file that cannot be opened.
    """
    sets = []
    for part in registry.expand(mixture):
        entry = registry.entry(part.name)
        table = open_table(entry.data)
        if left_out := read_slice(part, slices):
            table = Without(table, sorted(left_out))
        sets.append(RowSet(part.name, table, entry.options, part.repeats))
    return sets
