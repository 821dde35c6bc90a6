"""``diff``: two files of predictions, question by question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from vila_hd.errors import VilaHDError

from .intervals import paired_p_value
from .report import Cell, Column, Report, Table
from .store import Prediction, read_predictions

Predictions = Mapping[tuple[str, str], Prediction]
Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """One task under one condition of each side."""

    task: str
    first: str
    second: str
    pairs: tuple[tuple[Prediction, Prediction], ...]

    only_one: int
    """Questions that only one side was asked."""

    @property
    def looks(self) -> str:
        """The conditions in words."""
        return self.first if self.first == self.second else f"{self.first} / {self.second}"


def files_of(path: Path) -> dict[str, Path]:
    """Task -> file of predictions, of a folder or of one file.

    Raises:
        VilaHDError: there is none.
    """
    if path.is_file():
        return {path.stem: path}
    files = {file.stem: file for file in sorted(path.glob("*.jsonl")) if ".rank" not in file.name}
    if not files:
        raise VilaHDError(f"{path} holds no *.jsonl of predictions: give a folder of --out, or one file")
    return files


def pair_conditions(
    first: Sequence[str], second: Sequence[str], asked: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Which condition is compared with which.

    Args:
        first: conditions of the first side.
        second: those of the second side.
        asked: one condition for both, or one for each; empty: those that both have, or the only ones.

    Raises:
        VilaHDError: nothing fits together.
    """
    if asked:
        return [(asked[0], asked[-1])]
    shared = [condition for condition in first if condition in second]
    if shared:
        return [(condition, condition) for condition in shared]
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    raise VilaHDError(
        f"no condition is in both ({', '.join(first)}; {', '.join(second)}): name two with --conditions A B"
    )


def _conditions(predictions: Predictions) -> list[str]:
    return list(dict.fromkeys(condition for _, condition in predictions))


def pair_up(task: str, first: Predictions, second: Predictions, conditions: tuple[str, str]) -> Pairing:
    """Predictions of the questions that both sides were asked.

    Raises:
        VilaHDError: there is none.
    """
    mine = {uid: entry for (uid, condition), entry in first.items() if condition == conditions[0]}
    theirs = {uid: entry for (uid, condition), entry in second.items() if condition == conditions[1]}
    pairs = tuple((entry, theirs[uid]) for uid, entry in mine.items() if uid in theirs)
    if not pairs:
        raise VilaHDError(
            f"{task}: no question was asked on both sides under {conditions[0]} and {conditions[1]}"
        )
    return Pairing(
        task=task,
        first=conditions[0],
        second=conditions[1],
        pairs=pairs,
        only_one=len(mine) + len(theirs) - 2 * len(pairs),
    )


def pairing_row(pairing: Pairing) -> dict[str, Cell]:
    """Scores, difference and test of one pairing. Mean scores, also where the metric sums up otherwise."""
    first = [a.score for a, _ in pairing.pairs]
    second = [b.score for _, b in pairing.pairs]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    test, p_value = paired_p_value(first, second)
    half = 0.0 if len(differences) < 2 else Z * stdev(differences) / len(differences) ** 0.5
    change = mean(differences)
    return {
        "task": pairing.task,
        "looks": pairing.looks,
        "questions": len(pairing.pairs),
        "only_one": pairing.only_one,
        "a": 100 * mean(first),
        "b": 100 * mean(second),
        "change": 100 * change,
        "interval": f"{100 * (change - half):+.1f} - {100 * (change + half):+.1f}",
        "better": sum(difference > 0 for difference in differences),
        "worse": sum(difference < 0 for difference in differences),
        "test": test,
        "p": p_value,
    }


def flip_rows(pairing: Pairing) -> list[dict[str, Cell]]:
    """One row per question whose score differs."""
    return [
        {
            "task": pairing.task,
            "looks": pairing.looks,
            "uid": a.uid,
            "expected": a.answer,
            "a": a.prediction or a.error,
            "b": b.prediction or b.error,
            "score_a": a.score,
            "score_b": b.score,
        }
        for a, b in pairing.pairs
        if a.score != b.score
    ]


SUMMARY = (
    Column(key="task", title="task"),
    Column(key="looks", title="looks"),
    Column(key="questions", title="samples"),
    Column(key="only_one", title="on one side only"),
    Column(key="a", title="A %", spec=".1f"),
    Column(key="b", title="B %", spec=".1f"),
    Column(key="change", title="B - A", spec="+.1f"),
    Column(key="interval", title="95 % interval"),
    Column(key="better", title="B better"),
    Column(key="worse", title="B worse"),
    Column(key="test", title="paired test"),
    Column(key="p", title="p", spec=".3g"),
)
FLIPS = (
    Column(key="task", title="task"),
    Column(key="looks", title="looks"),
    Column(key="uid", title="sample"),
    Column(key="expected", title="expected", widest=40),
    Column(key="a", title="A", widest=40),
    Column(key="b", title="B", widest=40),
    Column(key="score_a", title="score A", spec=".2g"),
    Column(key="score_b", title="score B", spec=".2g"),
)


def run_diff(first: Path, second: Path, *, conditions: Sequence[str], show: int, command: str) -> Report:
    """Compare two folders or files of predictions.

    Args:
        first: side A.
        second: side B.
        conditions: see ``pair_conditions``.
        show: at most so many flipped samples; 0: all.
        command: the shell line that repeats it.

    Raises:
        VilaHDError: there is nothing to compare, or the data differ.
    """
    if len(conditions) > 2:
        raise VilaHDError(f"--conditions {' '.join(conditions)}: give one or two")
    mine, theirs = files_of(first), files_of(second)
    if first.is_file() and second.is_file():
        theirs = dict(zip(mine, theirs.values(), strict=True))
    shared = [task for task in mine if task in theirs]
    if not shared:
        raise VilaHDError(
            f"no task is in both: {', '.join(mine)} in {first}, {', '.join(theirs)} in {second}"
        )
    pairings = []
    for task in shared:
        settings_a, a = read_predictions(mine[task])
        settings_b, b = read_predictions(theirs[task])
        for name in ("task", "data", "first_example", "scenes", "split"):
            if settings_a.get(name) != settings_b.get(name):
                raise VilaHDError(
                    f"{mine[task]} and {theirs[task]} answer different questions: {name} is "
                    f"{settings_a.get(name)!r} and {settings_b.get(name)!r}"
                )
        for pair in pair_conditions(_conditions(a), _conditions(b), conditions):
            pairings.append(pair_up(str(settings_a.get("task", task)), a, b, pair))
    flips = [row for pairing in pairings for row in flip_rows(pairing)]
    shown = flips if show == 0 else flips[:show]
    tables = [Table(title="Paired scores", columns=SUMMARY, rows=tuple(map(pairing_row, pairings)))]
    if shown:
        title = f"Flipped samples: {len(shown)} of {len(flips)}"
        tables.append(Table(title=title, columns=FLIPS, rows=tuple(shown)))
    notes = ("Mean scores of the samples that both sides answered; interval of the paired mean (normal).",)
    return Report(
        command=command, facts={"A": str(first), "B": str(second)}, tables=tuple(tables), notes=notes
    )
