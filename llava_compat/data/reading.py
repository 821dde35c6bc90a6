"""``read_rows``: a file, a folder or rows in memory -> validated rows, one at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .files import iterate_mappings, iterate_records
from .formats import ReadOptions, make_row
from .problems import DataError, Record
from .rows import Row

OnProblem = Callable[[DataError], None]


def read_rows(
    rows: str | Path | Iterable[Any],
    options: ReadOptions | None = None,
    *,
    on_problem: OnProblem | None = None,
) -> Iterator[Row]:
    """Validated rows in order; no more than a few are in memory at any time.

    Args:
        rows: a .json, .jsonl, .parquet, .arrow or .tar file, a folder of the last three, or any iterable of
            mappings, such as a data set of the ``datasets`` package.
        options: how to read; None: pictures lie next to the file (in the working directory for an iterable).
        on_problem: called with each row that cannot be used, which is then left out; ``Tolerance`` stops at a
            rate. None: the first problem is raised.

    Raises:
        DataError: the file cannot be opened; without ``on_problem``, also the first broken row.
    """
    if isinstance(rows, str | Path):
        path = Path(rows)
        options = options or ReadOptions(media=path if path.is_dir() else path.parent)
        return make_rows(iterate_records(path), options, on_problem=on_problem)
    return make_rows(iterate_mappings(rows), options or ReadOptions(media=Path()), on_problem=on_problem)


def make_rows(
    records: Iterable[Record], options: ReadOptions, *, on_problem: OnProblem | None = None
) -> Iterator[Row]:
    """Rows of records; arguments as for ``read_rows``."""
    for source, value in records:
        try:
            if isinstance(value, DataError):
                raise value
            row = make_row(value, source, options)
        except DataError as problem:
            if on_problem is None:
                raise
            on_problem(problem)
        else:
            yield row
