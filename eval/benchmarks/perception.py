"""General perception: what is in the picture."""

from collections.abc import Sequence
from statistics import fmean

from ..metrics.yes_no import detection_rates, first_yes_no, mme_score, pope_yes_no
from ..registry import Example
from .options import COLONS, score_choice, split_options
from .tasks import LETTER, SHORT, Columns, Row, Task

CIRCULAR = 1_000_000
"""MMBench numbers the copies of a question whose options are rotated by this much apart."""


def _read_mmbench(row: Row) -> Row:
    return {**row, "item": int(row["index"]) % CIRCULAR}


def all_copies_right(examples: Sequence[Example], scores: Sequence[float]) -> float:
    """Share of questions that are right in every order of their options."""
    items: dict[str, list[float]] = {}
    for example, score in zip(examples, scores, strict=True):
        items.setdefault(example.item, []).append(score)
    return fmean(float(min(entries) == 1.0) for entries in items.values())


def _mmbench_details(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    """Accuracy of single copies, and the groups counted like the whole."""
    details = {"accuracy without rotation": 100 * fmean(scores)}
    for group in dict.fromkeys(example.group for example in examples):
        some = [pair for pair in zip(examples, scores, strict=True) if pair[0].group == group]
        details[group] = 100 * all_copies_right([pair[0] for pair in some], [pair[1] for pair in some])
    return details


MMBENCH_EN_DEV = Task(
    name="mmbench_en_dev",
    title="MMBench (English), dev: right in every order of the options",
    dataset="lmms-lab-encoder/MMBench",
    config="en",
    split="dev",
    licence="see the dataset card",
    columns=Columns(
        options=("A", "B", "C", "D", "E"), hint="hint", uid="index", group="L2-category", item="item"
    ),
    prompt="{hint}{question}\n{options}\n" + LETTER,
    metric="circular accuracy",
    score=score_choice,
    reduce=all_copies_right,
    details=_mmbench_details,
    max_new_tokens=16,
    read=_read_mmbench,
)

COGNITION = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
"""Subtasks of MME; the ten others are perception."""

MME_FULL = 2800.0
"""200 points per subtask."""


def _read_mme(row: Row) -> Row:
    return {**row, "question": str(row["question"]).replace("Please answer yes or no.", "").strip()}


def _score_mme(example: Example, prediction: str) -> float:
    return float(first_yes_no(prediction) == example.answers[0].strip(" .").lower())


def _mme_subtasks(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    """Subtask -> 0 to 200."""
    pictures: dict[str, dict[str, list[float]]] = {}
    for example, score in zip(examples, scores, strict=True):
        pictures.setdefault(example.group, {}).setdefault(example.item, []).append(score)
    return {name: mme_score(pairs) for name, pairs in pictures.items()}


def _mme_total(examples: Sequence[Example], scores: Sequence[float]) -> float:
    return sum(_mme_subtasks(examples, scores).values()) / MME_FULL


def _mme_details(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    """Perception (of 2000), cognition (of 800) and every subtask (of 200)."""
    subtasks = _mme_subtasks(examples, scores)
    cognition = sum(score for name, score in subtasks.items() if name in COGNITION)
    return {"perception": sum(subtasks.values()) - cognition, "cognition": cognition, **subtasks}


MME = Task(
    name="mme",
    title="MME: two yes-or-no questions a picture, 14 subtasks of 200 points",
    dataset="lmms-lab-encoder/MME",
    split="test",
    licence="research only, on request to its authors",
    columns=Columns(uid="question_id", group="category", item="question_id"),
    prompt="{question}\n" + SHORT,
    metric="MME score",
    score=_score_mme,
    reduce=_mme_total,
    details=_mme_details,
    full_score=MME_FULL,
    max_new_tokens=16,
    read=_read_mme,
)


def _score_pope(example: Example, prediction: str) -> float:
    return float(pope_yes_no(prediction) == example.answers[0].strip().lower())


def _pope_details(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    is_yes = [example.answers[0].strip().lower() == "yes" for example in examples]
    said_yes = [real if score == 1.0 else not real for real, score in zip(is_yes, scores, strict=True)]
    return {name: 100 * rate for name, rate in detection_rates(said_yes, is_yes).items()}


POPE = Task(
    name="pope",
    title="POPE: is the object there, or only likely to be?",
    dataset="lmms-lab-encoder/POPE",
    split="test",
    licence="MIT",
    columns=Columns(uid="id", group="category"),
    prompt="{question}\n" + SHORT,
    metric="accuracy",
    score=_score_pope,
    details=_pope_details,
    max_new_tokens=16,
)


def _read_mmstar(row: Row) -> Row:
    return {**row, "options": split_options(str(row["question"]).split("Options:")[-1], COLONS)[1]}


MMSTAR = Task(
    name="mmstar",
    title="MMStar: questions that cannot be answered without the picture",
    dataset="Lin-Chen/MMStar",
    split="val",
    licence="see the dataset card",
    columns=Columns(options="options", uid="index", group="category"),
    prompt="{question}\n" + LETTER,
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
    read=_read_mmstar,
)

SEEDBENCH_2_PLUS = Task(
    name="seedbench_2_plus",
    title="SEED-Bench-2-Plus: charts, maps and web pages full of text",
    dataset="doolayer/SEED-Bench-2-Plus",
    split="test",
    licence="CC BY-NC 4.0",
    columns=Columns(
        options=("choice_A", "choice_B", "choice_C", "choice_D"),
        uid="question_id",
        group="question_image_type",
    ),
    prompt="{question}\n{options}\n" + LETTER,
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
)
