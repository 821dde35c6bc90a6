"""Accuracy of one model on any benchmarks: answers what is missing, scores, reports."""

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from vila_hd.errors import VilaHDError
from vila_hd.version import __version__

from .conditions import OWN, Condition
from .intervals import mean_interval
from .predict import Task, Work, Workers, example_at
from .registry import Benchmark, data_revision, full_name, full_score, open_benchmark, summarise
from .report import Cell, Column, Report, Table, machine_facts
from .store import Prediction
from .subjects import ModelSpec
from .team import Team

SHOWN_FAILURES = 10

DEFAULT_CONDITIONS = (Condition("auto", "prompt"),)
"""The checkpoint's own budget, guided by the question."""

Answers = dict[str, dict[str, list[Prediction]]]
"""Benchmark -> condition -> predictions of its examples, in order."""


@dataclass(frozen=True, kw_only=True)
class EvalRun:
    """What to measure, and where predictions are kept."""

    spec: ModelSpec

    tasks: tuple[str, ...]

    out: Path
    """Folder of ``<task>.jsonl``, ``report.json`` and ``report.md``."""

    conditions: tuple[Condition, ...] = DEFAULT_CONDITIONS

    sides: tuple[int, ...] = ()
    """Every condition is also asked with pictures reduced to fit into squares of these sides, in pixels."""

    limit: int | None = None

    data: Path | None = None
    """Folder of the benchmarks' files; None: where each finds them by itself."""

    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise VilaHDError(f"--limit {self.limit}: use 1 or more")
        if not self.tasks:
            raise VilaHDError("--tasks is empty: name one or more of python -m eval list")


def task_settings(spec: ModelSpec, benchmark: Benchmark) -> dict[str, Any]:
    """Everything that a prediction of a benchmark depends on besides its condition."""
    first = example_at(benchmark, 0)
    what = repr((first.uid, first.prompt, first.answers))
    return {
        **spec.settings(),
        "task": benchmark.name,
        "data": data_revision(benchmark),
        "first_example": hashlib.sha256(what.encode()).hexdigest()[:16],
        "max_new_tokens": benchmark.max_new_tokens,
    }


def own_conditions(spec: ModelSpec, conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions for a model: one of another kind looks in its own way.

    Raises:
        VilaHDError: it was asked to look in another way.
    """
    if spec.is_ours:
        return tuple(conditions)
    if tuple(conditions) != DEFAULT_CONDITIONS:
        raise VilaHDError(
            f"{spec.label} is no VILA-HD model: --budget, --guided-by, --per-scale and --prune mean "
            "nothing to it, leave them out; --max-pixels limits its pictures"
        )
    return (OWN,)


def open_tasks(run: EvalRun) -> list[Task]:
    """The tasks of a run.

    Raises:
        VilaHDError: a benchmark is unknown, its data are missing, or it is empty.
    """
    tasks = []
    conditions = tuple(
        replace(condition, side=side)
        for condition in own_conditions(run.spec, run.conditions)
        for side in (*run.sides, None)
    )
    for name in dict.fromkeys(map(full_name, run.tasks)):
        benchmark = open_benchmark(name, data=run.data)
        if len(benchmark) == 0:
            raise VilaHDError(f"benchmark {name!r} holds no example: check its data")
        tasks.append(
            Task(
                benchmark=benchmark,
                conditions=conditions,
                path=run.out / f"{name}.jsonl",
                settings=task_settings(run.spec, benchmark),
                limit=run.limit,
            )
        )
    return tasks


def answer_tasks(tasks: Sequence[Task], spec: ModelSpec, work: Work, team: Team) -> Answers:
    """Answer what is not answered yet.

    Raises:
        VilaHDError: see ``Task.answer``.
    """
    with Workers(spec, work) as workers:
        return {task.benchmark.name: task.answer(workers, team) for task in tasks}


def sums_up_as_mean(task: Task) -> bool:
    """Whether the score is the mean over samples, told by made-up scores: real ones can agree by chance."""
    generator = np.random.default_rng(0)
    made_up = [generator.integers(2, size=len(task.examples)).astype(float).tolist() for _ in range(4)]
    full = full_score(task.benchmark)
    return all(
        abs(_score(task, scores) - full * mean(scores)) < 1e-6 * full
        for scores in ([1.0] * len(task.examples), *made_up)
    )


def _score(task: Task, scores: Sequence[float]) -> float:
    """The task's score in the field's unit."""
    return next(iter(summarise(task.benchmark, task.examples, scores).values()))


def score_row(task: Task, condition: Condition, predictions: Sequence[Prediction]) -> dict[str, Cell]:
    """One row of the table, scores in the field's unit. Samples without an answer count as wrong."""
    benchmark = task.benchmark
    scores = [prediction.score for prediction in predictions]
    # Another summary than the mean may depend on the order or on groups, which resampling would break.
    bounds = mean_interval(scores) if sums_up_as_mean(task) else None
    low, high = (full_score(benchmark) * bound for bound in bounds) if bounds else (None, None)
    answered = [prediction for prediction in predictions if not prediction.error]
    return {
        "task": benchmark.name,
        "metric": benchmark.metric,
        "condition": condition.key,
        "score": _score(task, scores),
        "low": low,
        "high": high,
        "interval": None if low is None or high is None else f"{low:.1f} - {high:.1f}",
        "tokens": _mean([prediction.visual_tokens for prediction in answered]),
        "prompt_tokens": _mean([prediction.prompt_tokens for prediction in answered]),
        "seconds": _mean([prediction.seconds for prediction in answered]),
        "questions": len(predictions),
        "failed": len(predictions) - len(answered),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def score_table(rows: Sequence[dict[str, Cell]]) -> Table:
    """Score and cost of every task under every condition."""
    columns = (
        Column(key="task", title="task"),
        Column(key="metric", title="metric"),
        Column(key="condition", title="looks"),
        Column(key="score", title="score", spec=".1f"),
        Column(key="interval", title="95 % interval"),
        Column(key="tokens", title="visual tokens", spec=".0f"),
        Column(key="prompt_tokens", title="prompt tokens", spec=".0f"),
        Column(key="seconds", title="s / sample", spec=".2f"),
        Column(key="questions", title="samples"),
        Column(key="failed", title="failed"),
    )
    return Table(title="Scores", columns=columns, rows=tuple(rows))


def detail_table(task: Task, predictions: dict[str, list[Prediction]]) -> Table | None:
    """What the benchmark says besides its score, such as means per kind; None: nothing."""
    columns: dict[str, list[float]] = {}
    names: list[str] = []
    for key, entries in predictions.items():
        numbers = summarise(task.benchmark, task.examples, [entry.score for entry in entries])
        names = list(numbers)[1:]
        columns[key] = list(numbers.values())[1:]
    if not names:
        return None
    rows: list[dict[str, Cell]] = [
        {"kind": name or "-", **{key: values[number] for key, values in columns.items()}}
        for number, name in enumerate(names)
    ]
    head = (Column(key="kind", title="part"), *(Column(key=k, title=k, spec=".1f") for k in predictions))
    return Table(title=f"{task.benchmark.name}: in detail", columns=head, rows=tuple(rows))


def failure_notes(answers: Answers) -> tuple[str, ...]:
    """Which samples have no answer, and why."""
    failed = {
        (name, entry.uid, entry.error)
        for name, predictions in answers.items()
        for entries in predictions.values()
        for entry in entries
        if entry.error
    }
    if not failed:
        return ()
    lines = [f"{name} {uid}: {error}" for name, uid, error in sorted(failed)[:SHOWN_FAILURES]]
    more = len(failed) - len(lines)
    lines += [f"and {more} more; see the field error of the predictions"] if more else []
    return ("Without an answer, counted as wrong, asked again by the next run:", *lines)


def what_failed(answers: Answers) -> str:
    """One line for the end of the command; empty when every sample has its answer."""
    entries = [entry for found in answers.values() for some in found.values() for entry in some]
    failed = sum(bool(entry.error) for entry in entries)
    if not failed:
        return ""
    return (
        f"{failed} of {len(entries)} answers are missing and count as wrong: see the end of the report, mend "
        "what it names and start again; only they are asked again"
    )


def run_facts(run: EvalRun, tasks: Sequence[Task]) -> dict[str, Cell]:
    """Everything that the numbers depend on."""
    revisions = {task.benchmark.name: data_revision(task.benchmark) for task in tasks}
    facts: dict[str, Cell] = {
        **machine_facts(),
        "vila-hd": __version__,
        "checkout": checkout(),
        "model": run.spec.label,
        **{name: value for name, value in run.spec.settings().items() if name != "model"},
        "weights": run.spec.fingerprint(),
        "revision": run.spec.commit(),
        "data": "; ".join(f"{name} {revision or 'unversioned'}" for name, revision in revisions.items()),
        "samples": "all" if run.limit is None else f"the first {run.limit} of each task only",
        "predictions": str(run.out),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return {name: value for name, value in facts.items() if value is not None}


def checkout() -> str | None:
    """The commit of this checkout, marked when files differ from it; None outside of git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def report_of(run: EvalRun, tasks: Sequence[Task], answers: Answers, *, command: str, team: Team) -> Report:
    """Tables of what was answered."""
    rows = [
        score_row(task, condition, answers[task.benchmark.name][condition.key])
        for task in tasks
        for condition in task.conditions
    ]
    kinds = [detail_table(task, answers[task.benchmark.name]) for task in tasks]
    work = run.work
    notes = (
        "Greedy answers. Seconds: batched, all passes, without reading the picture; batch "
        f"{work.batch_size}, {work.processes * team.count} process(es) of {work.threads} thread(s).",
        *failure_notes(answers),
    )
    tables = (score_table(rows), *(table for table in kinds if table is not None))
    return Report(
        command=command,
        facts=run_facts(run, tasks),
        tables=tables,
        notes=notes,
        incomplete=what_failed(answers),
    )


def write_report(report: Report, out: Path) -> None:
    """Write ``report.json`` and ``report.md`` into a folder.

    Raises:
        VilaHDError: they cannot be written.
    """
    report.write_json(out / "report.json")
    report.write_markdown(out / "report.md")


def run_tasks(run: EvalRun, *, command: str, team: Team) -> Report:
    """Answer what is not answered yet, write the report and return it.

    Raises:
        VilaHDError: the model or a benchmark cannot be opened, every sample fails, or predictions of
            something else are in the way.
    """
    tasks = open_tasks(run)
    answers = answer_tasks(tasks, run.spec, run.work, team)
    report = report_of(run, tasks, answers, command=command, team=team)
    if team.leads:
        write_report(report, run.out)
    return report
