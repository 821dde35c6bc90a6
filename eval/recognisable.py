"""``recognisable``: from which resolution on a model can tell, per sample and per benchmark.

The analysis that led to 4KPro: samples that are recognisable at 1K cannot show what 4K is good for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

from vila_hd.errors import VilaHDError

from .plots import Chart, Line, save
from .predict import Task
from .registry import Example
from .report import Cell, Column, Report, Table
from .runner import EvalRun, answer_tasks, open_tasks, report_of, score_row, write_report
from .store import Prediction
from .team import Team

SIDES = (378, 756, 1512, 3780)
"""Sides of the squares that pictures are reduced to fit into, in pixels."""

ORIGINAL = "original"
RIGHT = 0.5
"""From this score on an answer counts as right; metrics of texts give less than 1 for a small difference."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found out about one sample."""

    uid: str

    minimum: str | None
    """Smallest size from which on all are answered right: a side or ``original``; None: not even that."""

    pixels: int | None
    """``minimum`` as the longest side of the picture that was shown; None with it."""

    right: Mapping[str, bool]
    """Size -> whether it was answered right."""


def minimum_size(right: Mapping[str, bool]) -> str | None:
    """The smallest size from which on all are right.

    Args:
        right: size -> whether the answer was right, sizes in ascending order.
    """
    found: str | None = None
    for size in reversed(list(right)):
        if not right[size]:
            break
        found = size
    return found


def longest_side(example: Example) -> int:
    """Longest side of the largest picture of an example, in pixels."""
    return max(max(picture.size) for picture in example.load_images())


def find(example: Example, entries: Mapping[str, Prediction]) -> Finding:
    """The finding about one sample from its answers, sizes in ascending order."""
    right = {size: entry.score >= RIGHT for size, entry in entries.items()}
    minimum = minimum_size(right)
    pixels = None
    if minimum is not None:
        longest = longest_side(example)
        pixels = longest if minimum == ORIGINAL else min(int(minimum), longest)
    return Finding(uid=example.uid, minimum=minimum, pixels=pixels, right=right)


def find_all(task: Task, answers: Mapping[str, Sequence[Prediction]]) -> list[Finding]:
    """Findings about every sample of a task."""
    sizes = {_size(condition.side): answers[condition.key] for condition in task.conditions}
    return [
        find(example, {size: entries[number] for size, entries in sizes.items()})
        for number, example in enumerate(task.examples)
    ]


def _size(side: int | None) -> str:
    return ORIGINAL if side is None else str(side)


def summary_row(name: str, findings: Sequence[Finding]) -> dict[str, Cell]:
    """One row per benchmark: where its samples become recognisable, and the shares per size."""
    pixels = [finding.pixels for finding in findings if finding.pixels is not None]
    shares: dict[str, Cell] = {
        f"from {size}": 100 * sum(finding.minimum == size for finding in findings) / len(findings)
        for size in findings[0].right
    }
    return {
        "task": name,
        "samples": len(findings),
        "recognisable": len(pixels),
        "mean": mean(pixels) if pixels else None,
        "median": median(pixels) if pixels else None,
        **shares,
    }


def summary_table(rows: Sequence[dict[str, Cell]]) -> Table:
    """Minimum recognisable resolution of every benchmark."""
    shares = [key for key in rows[0] if key.startswith("from ")]
    columns = (
        Column(key="task", title="task"),
        Column(key="samples", title="samples"),
        Column(key="recognisable", title="recognisable"),
        Column(key="mean", title="mean, px", spec=".0f"),
        Column(key="median", title="median, px", spec=".0f"),
        *(Column(key=key, title=f"{key} %", spec=".1f") for key in shares),
    )
    return Table(title="Minimum recognisable resolution", columns=columns, rows=tuple(rows))


def charts(
    tasks: Sequence[Task], rows: Sequence[dict[str, Cell]], findings: Sequence[list[Finding]]
) -> list[Chart]:
    """Score over size, and the share of samples that are recognisable at each size."""
    sizes = list(findings[0][0].right)
    ticks = tuple((float(place), size) for place, size in enumerate(sizes))
    scores, shares = [], []
    for number, task in enumerate(tasks):
        mine = [row for row in rows if row["task"] == task.benchmark.name]
        points = tuple((float(place), float(row["score"] or 0)) for place, row in enumerate(mine))
        scores.append(Line(name=task.benchmark.name, points=points))
        found = [sizes.index(item.minimum) for item in findings[number] if item.minimum is not None]
        total = len(findings[number])
        shares.append(
            Line(
                name=task.benchmark.name,
                points=tuple(
                    (float(place), 100 * sum(at <= place for at in found) / total)
                    for place in range(len(sizes))
                ),
            )
        )
    x = "longest side of the picture, pixels"
    return [
        Chart(title="Score", x=x, y="score", lines=tuple(scores), ticks=ticks),
        Chart(title="Recognisable samples", x=x, y="%", lines=tuple(shares), ticks=ticks),
    ]


def _write_findings(path: Path, findings: Sequence[Finding]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(asdict(finding)) + "\n" for finding in findings), encoding="utf-8")
    except OSError as error:
        raise VilaHDError(f"cannot write {path}: {error.strerror}; give another --out folder") from error


def check_sides(sides: Sequence[int]) -> tuple[int, ...]:
    """Sides in ascending order, each once.

    Raises:
        VilaHDError: one is no length, or there is none.
    """
    if not sides or min(sides) < 1:
        raise VilaHDError(f"--sides {' '.join(map(str, sides))}: use lengths in pixels")
    return tuple(sorted(set(sides)))


def run_recognisable(run: EvalRun, *, command: str, team: Team) -> Report:
    """Ask every question at every size, and report from which on the answers are right.

    Writes ``report.json``, ``report.md``, ``recognisable.svg`` and ``recognisable/<task>.jsonl`` with a
    line per sample.

    Raises:
        VilaHDError: as for ``run_tasks``, or several conditions were asked for.
    """
    if len(run.conditions) != 1:
        raise VilaHDError("recognisable: give one --budget, one --guided-by and one --per-scale")
    tasks = open_tasks(run)
    answers = answer_tasks(tasks, run.spec, run.work, team)
    report = report_of(run, tasks, answers, command=command, team=team)
    if not team.leads:
        return report
    findings = [find_all(task, answers[task.benchmark.name]) for task in tasks]
    rows = [summary_row(task.benchmark.name, found) for task, found in zip(tasks, findings, strict=True)]
    note = (
        f"Right: a score of {RIGHT:g} or more. Minimum: the smallest size that is right together with every "
        "larger one; a picture that is smaller than a size is shown as it is, and counts with its own "
        "longest side. Guesses of multiple-choice questions count like others."
    )
    report = replace(report, tables=(summary_table(rows), *report.tables), notes=(note, *report.notes))
    write_report(report, run.out)
    for task, found in zip(tasks, findings, strict=True):
        _write_findings(run.out / "recognisable" / f"{task.benchmark.name}.jsonl", found)
    scores = [
        score_row(task, condition, answers[task.benchmark.name][condition.key])
        for task in tasks
        for condition in task.conditions
    ]
    save(charts(tasks, scores, findings), run.out / "recognisable.svg")
    return report
