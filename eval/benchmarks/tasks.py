"""A benchmark over a public dataset as data: where the rows are, what the columns mean, prompt and metric."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from vila_hd.errors import VilaHDError
from vila_hd.options import Box

from ..registry import Benchmark, Example, scores_by_group
from .reading import Rows, open_folder, open_hub

Row = Mapping[str, Any]

LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."
"""How LLaVA, and most models after it, were taught to be asked for an option and for a short answer."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Column of the dataset per role; an empty name: it has none."""

    question: str = "question"

    answer: str = "answer"
    """A text, a list of accepted texts, a letter, or the number of an option."""

    pictures: tuple[str, ...] = ("image",)
    """In the order in which the model sees them; empty cells are left out."""

    options: str | tuple[str, ...] = ()
    """One column with a list, or a column per option; empty cells at the end are left out."""

    hint: str = ""
    """Text before the question."""

    uid: str = ""

    group: str = ""

    item: str = ""

    rule: str = ""

    regions: str = ""
    """List of boxes (x1, y1, x2, y2) in pixels that the answer can be read from."""


def mean(examples: Sequence[Example], scores: Sequence[float]) -> float:
    """Mean score."""
    return fmean(scores)


def no_details(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    """Nothing but the score and its groups."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task. Calling it opens it, as calling the class of another benchmark does."""

    name: str
    """Name in commands and files."""

    title: str
    """One line for the list of benchmarks."""

    dataset: str
    """Id on the Hugging Face hub; empty: local files only."""

    split: str

    config: str = ""

    revision: str = ""
    """Commit or tag; empty: the newest. Predictions name the commit that was read."""

    licence: str
    """Of the dataset."""

    columns: Columns = field(default_factory=Columns)

    prompt: str
    """``{question}``, ``{options}`` and ``{hint}`` are filled in."""

    option: str = "{letter}. {text}"
    """A line of ``{options}``."""

    metric: str

    score: Callable[[Example, str], float]
    """0 to 1 for one answer."""

    reduce: Callable[[Sequence[Example], Sequence[float]], float] = mean
    """Score of the task, 0 to 1."""

    details: Callable[[Sequence[Example], Sequence[float]], Mapping[str, float]] = no_details
    """Numbers beside the score and the means of the groups, in the field's unit."""

    full_score: float = 100.0
    """What 1.0 is called in the field."""

    max_new_tokens: int

    where: tuple[tuple[str, str], ...] = ()
    """Columns and the value that rows need to count."""

    read: Callable[[Row], Row] = dict
    """Makes the columns named above out of the dataset's own where they are not there as they are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.title)

    def __call__(self, *, data: Path | None = None) -> Benchmark:
        """The task over the hub's files or over those in folder ``data``."""
        return TaskBenchmark(task=self, data=data)


@dataclass(frozen=True, kw_only=True)
class TaskBenchmark:
    """A task whose rows are read when they are first needed."""

    task: Task

    data: Path | None = None
    """Folder of local files; None: the dataset of the hub."""

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached rows: every process opens its own.
        return {"task": self.task, "data": self.data}

    @property
    def name(self) -> str:
        """Name in commands and files."""
        return self.task.name

    @property
    def metric(self) -> str:
        """What the score is called."""
        return self.task.metric

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""
        return self.task.max_new_tokens

    @property
    def full_score(self) -> float:
        """What 1.0 is called in the field."""
        return self.task.full_score

    @property
    def revision(self) -> str:
        """Commit of the dataset, or a hash of the local files."""
        return self._rows.revision

    def provenance(self) -> Mapping[str, str]:
        """Where the questions are from."""
        task = self.task
        return {
            "dataset": task.dataset if self.data is None else str(self.data),
            "config": task.config,
            "split": task.split,
            "revision": self.revision,
            "licence": task.licence,
            "prompt": task.prompt,
        }

    @cached_property
    def _rows(self) -> Rows:
        task = self.task
        pictures = task.columns.pictures
        try:
            if self.data is not None:
                rows = open_folder(self.data, task.name, task.config, task.split, pictures)
            elif not task.dataset:
                raise VilaHDError(
                    "no public dataset: give a folder of files with --data (docs/benchmarks.md)"
                )
            else:
                rows = open_hub(task.dataset, task.config, task.split, task.revision, pictures)
        except VilaHDError as error:
            raise VilaHDError(f"benchmark {task.name!r}: {error}") from error
        if not any(name in rows.columns for name in pictures):
            raise VilaHDError(
                f"benchmark {task.name!r}: no column {pictures[0]!r}; the data has {', '.join(rows.columns)}"
            )
        return rows

    @cached_property
    def _indices(self) -> Sequence[int]:
        """Rows that count."""
        rows, where = self._rows, self.task.where
        if not where:
            return range(len(rows))
        found = [
            index
            for index in range(len(rows))
            if all(str(rows[index].get(column)) == value for column, value in where)
        ]
        if not found:
            wanted = " and ".join(f"{column} {value!r}" for column, value in where)
            raise VilaHDError(f"benchmark {self.name!r}: no row of the data has {wanted}")
        return found

    def __len__(self) -> int:
        return len(self._indices)

    def example(self, index: int) -> Example:
        """The question at ``index``.

        Raises:
            VilaHDError: a column is missing, or the answer names no option.
        """
        number = self._indices[index]
        try:
            return self._make(number, self.task.read(self._rows[number]))
        except KeyError as error:
            raise VilaHDError(
                f"benchmark {self.name!r}, row {number}: no column {error.args[0]!r}; the data has "
                f"{', '.join(self._rows.columns)}"
            ) from error

    def _make(self, number: int, row: Row) -> Example:
        columns = self.task.columns
        options = read_options(row, columns.options)
        question = self._question(number, row[columns.question]) if columns.question else ""
        uid = f"{number}:{row[columns.uid]}" if columns.uid else str(number)
        boxes = row.get(columns.regions) if columns.regions else None
        return Example(
            uid=uid,
            prompt=self._prompt(question, options, _text(row, columns.hint)),
            load_images=partial(self._load, number),
            answers=self._answers(number, row[columns.answer], options),
            regions=(self._boxes(number, boxes),) if boxes else (),
            group=_text(row, columns.group),
            options=options,
            item=_text(row, columns.item),
            rule=_text(row, columns.rule),
        )

    def _question(self, number: int, found: Any) -> str:
        if _is_missing(found):
            raise VilaHDError(f"benchmark {self.name!r}, row {number}: no question")
        return str(found).strip()

    def _prompt(self, question: str, options: Sequence[str], hint: str) -> str:
        task = self.task
        lines = [
            task.option.format(letter=letter, text=text)
            for letter, text in zip(ascii_uppercase, options, strict=False)
        ]
        before = f"{hint}\n" if hint else ""
        return task.prompt.format(question=question, options="\n".join(lines), hint=before).strip()

    def _boxes(self, number: int, found: Sequence[Sequence[float]]) -> tuple[Box, ...]:
        try:
            return tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in found)
        except (TypeError, ValueError) as error:
            raise VilaHDError(
                f"benchmark {self.name!r}, row {number}: boxes {found} are no list of [x1, y1, x2, y2]"
            ) from error

    def _answers(self, number: int, found: Any, options: Sequence[str]) -> tuple[str, ...]:
        """Accepted answers; of a question with options, the letter."""
        accepted = [
            entry for entry in (found if isinstance(found, list) else [found]) if not _is_missing(entry)
        ]
        if not accepted:
            raise VilaHDError(
                f"benchmark {self.name!r}, row {number}: no answer; splits for leaderboards have none"
            )
        if not options:
            return tuple(map(str, accepted))
        text = str(found).strip()
        letters = ascii_uppercase[: len(options)]
        if text.isdigit() and int(text) < len(letters):
            text = letters[int(text)]
        if len(text) != 1 or text.upper() not in letters:
            raise VilaHDError(
                f"benchmark {self.name!r}, row {number}: answer {text!r} is no option ({', '.join(letters)})"
            )
        return (text.upper(),)

    def _load(self, number: int) -> tuple[Any, ...]:
        try:
            return self._rows.pictures(number, self.task.columns.pictures)
        except VilaHDError as error:
            raise VilaHDError(f"benchmark {self.name!r}: {error}") from error

    def score(self, example: Example, prediction: str) -> float:
        """Score of one answer, 0 to 1."""
        return self.task.score(example, prediction)

    def aggregate(self, scores: Sequence[float]) -> float:
        """Score of the task, 0 to 1, from those of its examples from the first on."""
        return self.task.reduce([self.example(index) for index in range(len(scores))], scores)

    def summarise(self, examples: Sequence[Example], scores: Sequence[float]) -> Mapping[str, float]:
        """The score, numbers beside it, and the mean of every group."""
        task = self.task
        groups = {name: 100 * fmean(entries) for name, entries in scores_by_group(examples, scores).items()}
        return {
            task.metric: task.full_score * task.reduce(examples, scores),
            **(groups if len(groups) > 1 else {}),
            **task.details(examples, scores),
        }


def _is_missing(value: Any) -> bool:
    """Whether a cell that must hold something holds nothing."""
    return value is None or not str(value).strip() or (isinstance(value, float) and math.isnan(value))


def _text(row: Row, column: str) -> str:
    """Text of an optional cell. The files that came from tables write missing cells as nan."""
    value = row.get(column) if column else None
    return "" if value is None or str(value).strip().lower() == "nan" else str(value).strip()


def read_options(row: Row, columns: str | tuple[str, ...]) -> tuple[str, ...]:
    """Texts of the options of a row without the empty ones at the end.

    Raises:
        KeyError: a column of a list, or the first of several, is missing.
    """
    if isinstance(columns, str):
        cells = [str(cell).strip() for cell in row[columns] or ()]
    else:
        if columns and columns[0] not in row:
            raise KeyError(columns[0])
        cells = [_text(row, column) for column in columns]
    while cells and not cells[-1]:
        cells.pop()
    return tuple(cells)
