"""``scenes``: accuracy on held-out 4K scenes against budget, top-down next to bottom-up and random choice."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from .answering import fingerprint
from .benchmarks.scenes import SceneBenchmark
from .conditions import Condition
from .predict import Task, Work, Workers
from .report import Cell, Column, Report, Table, machine_facts, wilson_interval
from .runner import failure_notes, what_failed
from .store import Prediction
from .subjects import ModelSpec
from .team import Team

GUIDE_NAMES = {"prompt": "question (top-down)", "saliency": "picture (bottom-up)", "random": "random"}


@dataclass(frozen=True, kw_only=True)
class ScenesRun:
    """What to measure, and where predictions are kept."""

    model: str

    benchmark: SceneBenchmark

    conditions: tuple[Condition, ...]

    out: Path
    """Folder of ``predictions.jsonl``."""

    dtype: str = "auto"

    work: Work = field(default_factory=Work)

    def settings(self) -> dict[str, Any]:
        """Everything that a prediction depends on. Numbers of scenes and questions are not among it."""
        first = self.benchmark.example(0)
        what = repr((first.prompt, first.answers, first.regions))
        return {
            "model": fingerprint(self.model),
            "dtype": self.dtype,
            "split": self.benchmark.split,
            "tiers": list(self.benchmark.tiers),
            "scenes": hashlib.sha256(what.encode()).hexdigest()[:16],
            "max_new_tokens": self.benchmark.max_new_tokens,
        }


def condition_row(condition: Condition, predictions: Sequence[Prediction]) -> dict[str, Cell]:
    """One row of the table."""
    correct = sum(prediction.score == 1.0 for prediction in predictions)
    low, high = wilson_interval(correct, len(predictions))
    recalls = [prediction.recall for prediction in predictions if prediction.recall is not None]
    looked = condition.budget != 0
    guide = GUIDE_NAMES[condition.guided_by or "prompt"] if looked else "nothing (low resolution only)"
    return {
        "guided_by": guide if condition.pruning is None else f"{guide}, {condition.pruning}",
        "budget": condition.budget,
        "patches": mean(prediction.patches for prediction in predictions),
        "tokens": mean(prediction.visual_tokens or 0 for prediction in predictions),
        "accuracy": 100 * correct / len(predictions),
        "low": 100 * low,
        "high": 100 * high,
        "interval": f"{100 * low:.1f} - {100 * high:.1f}",
        "recall": 100 * mean(recalls) if recalls and looked else None,
        "seconds": mean(prediction.seconds for prediction in predictions),
        "correct": correct,
        "questions": len(predictions),
    }


def sweep_table(rows: Sequence[dict[str, Cell]]) -> Table:
    """Accuracy and cost of every condition."""
    columns = (
        Column(key="guided_by", title="guided by"),
        Column(key="budget", title="budget"),
        Column(key="patches", title="patches", spec=".0f"),
        Column(key="tokens", title="visual tokens", spec=".0f"),
        Column(key="accuracy", title="exact match %", spec=".1f"),
        Column(key="interval", title="95 % interval"),
        Column(key="recall", title="mark seen %", spec=".1f"),
        Column(key="seconds", title="s / question", spec=".2f"),
        Column(key="questions", title="questions"),
    )
    return Table(title="Questions about held-out 4K scenes", columns=columns, rows=tuple(rows))


def tier_table(
    conditions: Sequence[Condition], predictions: dict[str, list[Prediction]], chance: dict[str, float]
) -> Table:
    """Accuracy per kind of mark, or of the one kind of other questions."""
    tiers = sorted({prediction.group for entries in predictions.values() for prediction in entries})
    rows = []
    for condition in conditions:
        row: dict[str, Cell] = {"condition": condition.key}
        for tier in tiers:
            scores = [entry.score for entry in predictions[condition.key] if entry.group == tier]
            row[tier] = 100 * mean(scores) if scores else None
        rows.append(row)
    rows.append({"condition": "guessing", **{tier: 100 * chance[tier] for tier in tiers}})
    columns = (
        Column(key="condition", title="condition"),
        *(Column(key=tier, title=f"{tier} %", spec=".1f") for tier in tiers),
    )
    return Table(title="Exact match by kind", columns=columns, rows=tuple(rows))


def run_scenes(run: ScenesRun, *, command: str, team: Team) -> Report:
    """Answer what is not answered yet and report.

    Raises:
        VilaHDError: the model cannot be loaded, or predictions of something else are in the way.
    """
    path = run.out / "predictions.jsonl"
    spec = ModelSpec(name=run.model, dtype=run.dtype)
    task = Task(benchmark=run.benchmark, conditions=run.conditions, path=path, settings=run.settings())
    with Workers(spec, run.work) as workers:
        predictions = task.answer(workers, team)
    answers = {run.benchmark.name: predictions}
    work = run.work
    rows = [condition_row(condition, predictions[condition.key]) for condition in run.conditions]
    facts: dict[str, Cell] = {
        **machine_facts(),
        "model": run.model,
        "weights": fingerprint(run.model),
        "dtype": run.dtype,
        "scenes": f"{run.benchmark.count} of split {run.benchmark.split}",
        "predictions": str(path),
    }
    tables = (sweep_table(rows), tier_table(run.conditions, predictions, run.benchmark.chance()))
    notes = (
        "Greedy answers, exact match; 95 % Wilson interval. 'mark seen': share of the largest scale's "
        "patches on the sign asked about that were chosen. Seconds: batched, all passes, without drawing "
        f"the scene; batch {work.batch_size}, {work.processes} process(es) of {work.threads} thread(s).",
        *failure_notes(answers),
    )
    return Report(command=command, facts=facts, tables=tables, notes=notes, incomplete=what_failed(answers))
