"""Tables with their command, and intervals for proportions."""

import json
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vila_hd.errors import VilaHDError

Cell = str | int | float | None
"""One table cell; None prints as a dash."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one key of the rows is shown."""

    key: str

    title: str

    spec: str = ""
    """Format specification for numbers, such as ``.2f``."""

    widest: int | None = None
    """Longer texts are cut to so many characters; the JSON keeps them whole. None: nothing is cut."""

    def show(self, value: Cell) -> str:
        """``value`` as text."""
        if value is None:
            return "-"
        if not isinstance(value, str):
            return format(value, self.spec)
        text = " ".join(value.split())
        return text if self.widest is None or len(text) <= self.widest else text[: self.widest - 1] + "…"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values with the columns that show them."""

    columns: tuple[Column, ...]

    rows: tuple[Mapping[str, Cell], ...]

    title: str = ""

    def _cells(self) -> list[list[str]]:
        return [[column.show(row.get(column.key)) for column in self.columns] for row in self.rows]

    def text(self) -> str:
        """Aligned plain text; numbers on the right."""
        head = [column.title for column in self.columns]
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        left = [any(isinstance(row.get(column.key), str) for row in self.rows) for column in self.columns]

        def line(values: list[str]) -> str:
            parts = [v.ljust(w) if is_left else v.rjust(w)
                     for v, w, is_left in zip(values, widths, left, strict=True)]  # fmt: skip
            return "  ".join(parts).rstrip()

        lines = [line(head), line(["-" * width for width in widths]), *map(line, cells)]
        return "\n".join([self.title, *lines] if self.title else lines)

    def markdown(self) -> str:
        """A Markdown table."""
        lines = ["| " + " | ".join(column.title for column in self.columns) + " |"]
        lines.append("|" + "---|" * len(self.columns))
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self._cells()]
        return "\n".join([f"**{self.title}**", "", *lines] if self.title else lines)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that one command found out."""

    command: str
    """The shell line that repeats it."""

    facts: Mapping[str, Cell]
    """Machine, versions and other circumstances of the numbers."""

    tables: tuple[Table, ...]

    notes: tuple[str, ...] = ()

    incomplete: str = ""
    """What is missing from the numbers, and how to get it; empty when nothing is. It ends the command with
    an error."""

    def text(self) -> str:
        """The report for a terminal."""
        facts = [_facts_text(self.facts)] if self.facts else []
        blocks = [f"$ {self.command}", *facts, *(table.text() for table in self.tables)]
        return "\n\n".join([*blocks, *(["\n".join(self.notes)] if self.notes else [])])

    def markdown(self) -> str:
        """The report for a README."""
        facts = "; ".join(f"{name}: {_show_fact(value)}" for name, value in self.facts.items())
        blocks = [f"```bash\n{self.command}\n```", facts, *(table.markdown() for table in self.tables)]
        return "\n\n".join(filter(None, [*blocks, *self.notes]))

    def write_json(self, path: Path) -> None:
        """Write the report as JSON: command, facts, tables as lists of rows, notes.

        Raises:
            VilaHDError: the file cannot be written.
        """
        values = {
            "command": self.command,
            "facts": dict(self.facts),
            "tables": [
                {"title": table.title, "rows": [dict(row) for row in table.rows]} for table in self.tables
            ],
            "notes": list(self.notes),
            "incomplete": self.incomplete,
        }
        _write(path, json.dumps(values, indent=2) + "\n")

    def write_markdown(self, path: Path) -> None:
        """Write the report as Markdown.

        Raises:
            VilaHDError: the file cannot be written.
        """
        _write(path, self.markdown() + "\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise VilaHDError(f"cannot write {path}: {error.strerror}; give another path (--json)") from error


def _show_fact(value: Cell) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts_text(facts: Mapping[str, Cell]) -> str:
    width = max((len(name) for name in facts), default=0)
    return "\n".join(f"{name:<{width}}  {_show_fact(value)}" for name, value in facts.items())


def command_line(argv: Sequence[str]) -> str:
    """The shell line that runs ``python -m eval`` with ``argv``."""
    return "python -m eval " + shlex.join(argv)


def machine_facts() -> dict[str, Cell]:
    """Processor, operating system and versions of the packages that decide the speed."""
    return {
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


def _cpu_model() -> str:
    """The processor's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def wilson_interval(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Bounds of the Wilson score interval for a proportion (95 % by default).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927).

    Raises:
        ValueError: not 0 <= successes <= trials, or no trial.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    share = successes / trials
    denominator = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Exact at the ends, where rounding would leave the share itself just outside.
    return (middle - half if successes else 0.0), (middle + half if successes < trials else 1.0)
