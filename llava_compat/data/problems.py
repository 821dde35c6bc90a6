"""What is wrong with a row: where it stands, which sample it is, and the fix; and how many are too many."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import get_logger

logger = get_logger(__name__)

Kind = Literal[
    "broken file",
    "form",
    "unknown keys",
    "roles",
    "empty text",
    "broken text",
    "image count",
    "image path",
    "image missing",
    "image broken",
    "box",
    "video",
    "template",
]
"""Groups of the summary of ``check``."""


def brief(value: object) -> str:
    """A value for a message, short even if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, deep nesting
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class Source:
    """Where a row comes from."""

    file: str
    index: int
    """Number of the row, from 0."""

    line: int | None = None
    """Line of the file on which the row begins, from 1; None: the file has no lines."""

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line} (row {self.index})"


Record = tuple[Source, Any]
"""Where a row stands, and what stands there: a mapping, or the ``DataError`` that says why there is none."""


class DataError(VilaHDError):
    """A row that cannot be used. The message is one line: file, line, sample, what is wrong, the fix."""

    def __init__(
        self, message: str, *, kind: Kind = "form", source: Source | None = None, row_id: str | None = None
    ) -> None:
        """Describe a problem; see :meth:`of` for one with its place."""
        super().__init__(message)
        self.kind: Kind = kind
        self.source = source
        self.row_id = row_id

    def at(self, source: Source, row_id: str | None) -> "DataError":
        """The same problem with its place in front."""
        sample = "" if row_id is None else f"sample {row_id!r:.80}: "
        error = DataError(f"{source}: {sample}{self}", kind=self.kind, source=source, row_id=row_id)
        error.__cause__ = self.__cause__
        return error


@dataclass
class Tolerance:
    """Lets single broken rows pass and stops when they become many; pass it as ``on_problem``.

    Every problem is logged.
    """

    rate: float = 0.01
    """Share of rows that may be broken."""

    after: int = 100
    """Rows to see before the rate counts."""

    problems: int = field(default=0, init=False)

    def __call__(self, problem: DataError) -> None:
        """Count and log one problem.

        Raises:
            DataError: more rows are broken than allowed.
        """
        self.problems += 1
        logger.warning("%s", problem)
        seen = self.after if problem.source is None else max(problem.source.index + 1, self.after)
        if self.problems > self.rate * seen:
            raise DataError(
                f"{self.problems} broken row(s) among the first {seen}, more than {self.rate:.1%}: mend "
                f"them (python -m llava_compat.data check lists all); the last one: {problem}",
                kind=problem.kind,
                source=problem.source,
                row_id=problem.row_id,
            ) from problem
