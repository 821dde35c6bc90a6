"""From answers to checks: paired differences with intervals, and what the numbers say about a failure."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

import numpy as np

from ..intervals import bootstrap_interval, mean_interval
from ..metrics.exact_match import normalise
from ..report import Cell, Column
from ..store import Prediction
from .claim import Check

SEEN = 0.25
"""Share of the finest patches on a mark from which on it counts as seen."""


def paired_check(
    statement: str, better: Sequence[float], worse: Sequence[float], *, bound: float = 0.0, why: str = ""
) -> Check:
    """Check that scores (0 to 1) on the same samples are higher, in points of a hundred.

    Args:
        statement: the sentence that is checked.
        better: scores that the claim says are higher.
        worse: scores of the same samples.
        bound: points that the difference must be above.
        why: see ``Check``.

    Raises:
        ValueError: other samples.
    """
    differences = [100 * (b - w) for b, w in zip(better, worse, strict=True)]
    low, high = bootstrap_interval(differences)
    return Check(statement=statement, value=mean(differences), low=low, high=high, bound=bound, why=why)


def scores(predictions: Sequence[Prediction]) -> list[float]:
    """Score of each answer."""
    return [prediction.score for prediction in predictions]


def recalls(predictions: Sequence[Prediction]) -> list[float]:
    """Share of each mark's finest patches that was chosen; 0 where the low resolution alone was seen."""
    return [prediction.recall or 0.0 for prediction in predictions]


def seen_split(predictions: Sequence[Prediction]) -> tuple[float | None, float | None]:
    """Percentage of right answers where the mark was seen, and where it was not; None: no such sample."""
    groups: dict[bool, list[float]] = {True: [], False: []}
    for prediction in predictions:
        groups[(prediction.recall or 0.0) >= SEEN].append(prediction.score)
    seen, unseen = ([100 * mean(group) if group else None][0] for group in (groups[True], groups[False]))
    return seen, unseen


def other_marks(predictions: Sequence[Prediction]) -> float | None:
    """Percentage of wrong answers that are right for another question about the same scene; None: no wrong
    answer, or one question per scene."""
    answers: dict[str, set[str]] = defaultdict(set)
    for prediction in predictions:
        answers[_scene(prediction)].add(normalise(prediction.answer))
    if all(len(found) == 1 for found in answers.values()):
        return None
    wrong = [prediction for prediction in predictions if not prediction.score]
    named = [normalise(prediction.prediction) in answers[_scene(prediction)] for prediction in wrong]
    return 100 * mean(named) if named else None


def _scene(prediction: Prediction) -> str:
    """Uids of questions about scenes end with the number of the sign."""
    return prediction.uid.rpartition("-")[0]


def explain(first: Sequence[Prediction], second: Sequence[Prediction], names: tuple[str, str]) -> str:
    """Why accuracy differs between two conditions: what was seen, and how well it was read."""
    parts = []
    for name, predictions in zip(names, (first, second), strict=True):
        seen, unseen = seen_split(predictions)
        share = 100 * mean(recall >= SEEN for recall in recalls(predictions))
        read = "-" if seen is None else f"{seen:.0f} %"
        guessed = "-" if unseen is None else f"{unseen:.0f} %"
        parts.append(
            f"{name}: the mark is seen in {share:.0f} % of the samples, {read} right there, "
            f"{guessed} elsewhere"
        )
        named = other_marks(predictions)
        if named is not None:
            parts[-1] += f", and {named:.0f} % of the wrong answers name another sign's mark"
    return "; ".join(parts)


def answer_row(predictions: Sequence[Prediction], **labels: Cell) -> dict[str, Cell]:
    """One row about a condition: labels, accuracy with its interval, what was seen, tokens and seconds."""
    low, high = mean_interval(scores(predictions))
    seen, unseen = seen_split(predictions)
    known = any(prediction.recall is not None for prediction in predictions)
    looked = known and any(prediction.patches for prediction in predictions)
    return {
        **labels,
        "patches": mean(prediction.patches for prediction in predictions),
        "tokens": mean(prediction.visual_tokens or 0 for prediction in predictions),
        "accuracy": 100 * mean(scores(predictions)),
        "low": 100 * low,
        "high": 100 * high,
        "interval": f"{100 * low:.1f} - {100 * high:.1f}",
        "recall": 100 * mean(recalls(predictions)) if looked else None,
        "seen": seen if looked else None,
        "unseen": unseen if looked else None,
        "seconds": float(np.median([prediction.seconds for prediction in predictions])),
        "questions": len(predictions),
    }


ANSWER_COLUMNS = (
    Column(key="patches", title="patches", spec=".0f"),
    Column(key="tokens", title="visual tokens", spec=".0f"),
    Column(key="accuracy", title="right %", spec=".1f"),
    Column(key="interval", title="95 % interval"),
    Column(key="recall", title="mark seen %", spec=".1f"),
    Column(key="seen", title="right where seen %", spec=".1f"),
    Column(key="unseen", title="right elsewhere %", spec=".1f"),
    Column(key="seconds", title="s / question", spec=".3f"),
    Column(key="questions", title="questions"),
)
"""Columns of ``answer_row`` behind those of its labels."""
