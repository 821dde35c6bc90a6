"""Claim 5: choosing patches before they are encoded, against dropping tokens afterwards."""

from collections.abc import Sequence
from statistics import median

import torch

from vila_hd.options import PRUNING_METHODS, Pruning, PruningMethod

from ..answering import Answerer
from ..conditions import Condition
from ..plots import Chart, Line
from ..report import Cell, Column, Table
from . import recipes
from .checks import ANSWER_COLUMNS, answer_row, explain, paired_check, scores
from .claim import Check, Claim, Finding
from .looks import points
from .workshop import Workshop

KEEPS = (0.5, 0.25)
NAMES: dict[PruningMethod, str] = {"tome": "ToMe", "fastv": "FastV", "visionzip": "VisionZip"}
PS3, FULL = "PS3, question", "everything"
LANGUAGE = "language"
"""What ``Phases`` calls the seconds of the language model; all others are the tower's."""


def ways() -> dict[tuple[str, float], Condition]:
    """Who reduces to which share -> how the model is asked."""
    patches = sum(recipes.ALL)
    found = {(FULL, 1.0): Condition(patches, "saliency", recipes.ALL)}
    for keep in KEEPS:
        chosen = tuple(round(keep * scale) for scale in recipes.ALL)
        for method in PRUNING_METHODS:
            pruning = Pruning(method=method, keep=keep)
            found[NAMES[method], keep] = Condition(patches, "saliency", recipes.ALL, pruning)
        found[PS3, keep] = Condition(sum(chosen), "prompt", chosen)
    return found


def measure_pruning(workshop: Workshop) -> Finding:
    """One model, trained with many budgets up to whole pictures, asked about whole and reduced ones."""
    model, conditions = workshop.model(recipes.WHOLE), ways()
    benchmark = workshop.scenes(count=workshop.effort.scenes_whole)
    answers = workshop.answers(model, benchmark, tuple(conditions.values()))
    found = {key: answers[condition.key] for key, condition in conditions.items()}
    torch.set_num_threads(workshop.cores)
    answerer = Answerer(model)
    rows: list[dict[str, Cell]] = []
    times: dict[tuple[str, float], tuple[list[float], list[float]]] = {}
    for (who, keep), condition in conditions.items():
        seconds = [
            answerer.reading_seconds(benchmark.example(index % len(benchmark)), condition)
            for index in range(workshop.effort.runs + 1)
        ][1:]
        tower = [sum(parts.values()) - parts[LANGUAGE] for parts in seconds]
        language = [parts[LANGUAGE] for parts in seconds]
        times[who, keep] = tower, language
        row = answer_row(found[who, keep], who=who, keep=100 * keep)
        rows.append(row | {"tower": median(tower), "language": median(language)})
    checks: list[Check] = []
    for keep in KEEPS:
        for name in NAMES.values():
            checks.append(
                paired_check(
                    f"{100 * keep:.0f} % of the tokens: PS3 reads more marks than {name}",
                    scores(found[PS3, keep]),
                    scores(found[name, keep]),
                    why=explain(found[PS3, keep], found[name, keep], ("PS3", name)),
                )
            )
        checks.append(cheaper(keep, times[FULL, 1.0][0], times[PS3, keep][0]))
    columns = (
        Column(key="who", title="reduced by"),
        Column(key="keep", title="kept %", spec=".0f"),
        *ANSWER_COLUMNS[:4],
        Column(key="tower", title="tower s", spec=".3f"),
        Column(key="language", title="language model s", spec=".3f"),
        Column(key="questions", title="questions"),
    )
    lines = tuple(
        Line(name=name, points=points([r for r in rows if r["who"] in (name, FULL)], "tokens", "accuracy"))
        for name in (*NAMES.values(), PS3)
    )
    chart = Chart(title="Accuracy over visual tokens", x="visual tokens", y="right %", lines=lines)
    note = (
        f"Seconds: one question alone, {workshop.cores} threads, median of {workshop.effort.runs} after "
        f"one to "
        "warm up; the tower's include resizing, choosing and projecting, the language model's end with "
        "the prompt. "
        "With PS3 the language model reads the question twice, first to choose."
    )
    return Finding(
        checks=tuple(checks),
        tables=(Table(title="One model, whole pictures reduced", columns=columns, rows=tuple(rows)),),
        charts=(chart,),
        notes=(note,),
    )


def cheaper(keep: float, whole: Sequence[float], chosen: Sequence[float]) -> Check:
    """That the tower takes less time; the interval spans all pairs of runs."""
    return Check(
        statement=f"{100 * keep:.0f} % of the patches: the tower's seconds over those of everything",
        value=median(chosen) / median(whole),
        low=min(chosen) / max(whole),
        high=max(chosen) / min(whole),
        bound=1.0,
        at_least=False,
        unit="x",
    )


PRUNING = Claim(
    number=5,
    title="Choosing patches beats pruning tokens",
    paper="At 1512 px with 50 % of the tokens: PS3 75.2 (tower 0.167 s), FastV 74.6, VisionZip 70.2, "
    "ToMe 63.9 (tower 0.286 "
    "s each); with 25 %: PS3 71.9 (0.096 s), VisionZip 67.4, FastV 66.6, ToMe 59.9; everything: 77.1 "
    "(Table 6).",
    method="One model whose last training gives a quarter to all of the patches of a picture. PS3 "
    "encodes a share of the patches, guided by the question; the others encode all of them and reduce the "
    "tokens to the same share, without training.",
    measure=measure_pruning,
    trainings=(recipes.WHOLE,),
    minutes=10,
)
