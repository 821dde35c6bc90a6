"""Diagrams and exam questions."""

import ast
from typing import Any

from vila_hd.errors import VilaHDError

from ..metrics.exact_match import exact_match
from ..metrics.open_answer import list_accuracy, number_accuracy, open_accuracy
from ..registry import Example
from .options import score_choice
from .tasks import LETTER, SHORT, Columns, Row, Task

_PICTURES = tuple(f"image_{number}" for number in range(1, 8))


def _literal(text: Any) -> list[str]:
    """A list that the dataset stores as Python source, or a list."""
    try:
        values = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError) as error:
        raise VilaHDError(f"options {text[:60]!r} are no Python list") from error
    return [str(value) for value in values]


AI2D = Task(
    name="ai2d",
    title="AI2D, test: diagrams of school books",
    dataset="lmms-lab-encoder/ai2d",
    split="test",
    licence="see the dataset card",
    columns=Columns(options="options"),
    prompt="{question}\n{options}\n" + LETTER,
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
)


def _read_mmmu(row: Row) -> Row:
    is_choice = row["question_type"] == "multiple-choice"
    options = _literal(row["options"]) if is_choice else []
    answer: Any = row["answer"]
    if not is_choice and str(answer).startswith("["):
        answer = _literal(answer)
    lines = "\n".join(f"{chr(65 + number)}. {option}" for number, option in enumerate(options))
    question = f"{row['question']}\n{lines}\n\n{LETTER}" if is_choice else f"{row['question']}\n\n{SHORT}"
    subject = "_".join(str(row["id"]).split("_")[1:-1])
    return {**row, "options": options, "answer": answer, "question": question, "subject": subject}


def _score_mmmu(example: Example, prediction: str) -> float:
    if example.rule == "multiple-choice":
        return score_choice(example, prediction)
    return open_accuracy(prediction, example.answers)


MMMU_VAL = Task(
    name="mmmu_val",
    title="MMMU, validation: college exams of 30 subjects, up to 7 pictures a question",
    dataset="lmms-lab-encoder/MMMU",
    split="validation",
    licence="Apache-2.0",
    columns=Columns(pictures=_PICTURES, options="options", uid="id", group="subject", rule="question_type"),
    prompt="{question}",
    metric="accuracy",
    score=_score_mmmu,
    max_new_tokens=128,
    read=_read_mmmu,
)


def _read_mmmu_pro(row: Row) -> Row:
    return {**row, "options": _literal(row["options"])}


MMMU_PRO_STANDARD = Task(
    name="mmmu_pro_standard",
    title="MMMU-Pro with up to ten options",
    dataset="MMMU/MMMU_Pro",
    config="standard (10 options)",
    split="test",
    licence="Apache-2.0",
    columns=Columns(pictures=_PICTURES, options="options", uid="id", group="subject"),
    prompt="{question}\n{options}\n\nAnswer with the option letter from the given choices directly.",
    metric="accuracy",
    score=score_choice,
    max_new_tokens=128,
    read=_read_mmmu_pro,
)

MMMU_PRO_VISION = Task(
    name="mmmu_pro_vision",
    title="MMMU-Pro with question and options inside the picture",
    dataset="MMMU/MMMU_Pro",
    config="vision",
    split="test",
    licence="Apache-2.0",
    columns=Columns(question="", options="options", uid="id", group="subject"),
    prompt="Answer with the option letter from the given choices directly.",
    metric="accuracy",
    score=score_choice,
    max_new_tokens=128,
    read=_read_mmmu_pro,
)


def _read_scienceqa(row: Row) -> Row:
    return {**row, "context": f"Context: {row['hint']}" if row["hint"] else ""}


SCIENCEQA_IMG = Task(
    name="scienceqa_img",
    title="ScienceQA, test, questions with a picture",
    dataset="lmms-lab-encoder/ScienceQA",
    config="ScienceQA-IMG",
    split="test",
    licence="CC BY-NC-SA 4.0",
    columns=Columns(options="choices", hint="context", group="subject"),
    prompt="{hint}{question}\n{options}\n" + LETTER,
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
    read=_read_scienceqa,
)


def _read_mathvista(row: Row) -> Row:
    choices = [str(choice) for choice in row["choices"] or ()]
    answer = str(row["answer"])
    rule = str(row["answer_type"])
    if row["question_type"] == "multi_choice":
        if answer not in choices:
            raise VilaHDError(f"question {row['pid']}: answer {answer!r} is none of the choices {choices}")
        rule, answer = "multi_choice", chr(65 + choices.index(answer))
    elif rule == "float":
        rule = f"float:{int(row['precision'] or 0)}"
    group = (row.get("metadata") or {}).get("task", "")
    return {**row, "choices": choices, "answer": answer, "rule": rule, "group": group}


def _score_mathvista(example: Example, prediction: str) -> float:
    kind, _, precision = example.rule.partition(":")
    answer = example.answers[0]
    if kind == "multi_choice":
        return score_choice(example, prediction)
    if kind in ("integer", "float"):
        return number_accuracy(prediction, answer, int(precision or 0))
    if kind == "list":
        return list_accuracy(prediction, answer)
    return exact_match(prediction, example.answers)


MATHVISTA_TESTMINI = Task(
    name="mathvista_testmini",
    title="MathVista, testmini; answers are extracted by rules where its authors ask a language model",
    dataset="AI4Math/MathVista",
    split="testmini",
    licence="CC BY-SA 4.0",
    columns=Columns(
        question="query",
        pictures=("decoded_image",),
        options="choices",
        uid="pid",
        group="group",
        rule="rule",
    ),
    prompt="{question}",
    metric="accuracy (rules)",
    score=_score_mathvista,
    max_new_tokens=256,
    read=_read_mathvista,
)
