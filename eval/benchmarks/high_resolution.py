"""Small details in large pictures."""

import re

from ..metrics.exact_match import exact_match
from ..registry import Example
from .options import LINES, PARENTHESES, score_choice, split_options
from .tasks import LETTER, Columns, Row, Task

_LISTED = "{question}\n{options}\n" + LETTER


def _read_vstar(row: Row) -> Row:
    text = str(row["text"]).replace(LETTER, "")
    question, options = split_options(text, PARENTHESES)
    return {**row, "question": question, "options": options}


def _vstar(name: str, title: str, category: str) -> Task:
    return Task(
        name=name,
        title=title,
        dataset="lmms-lab-encoder/vstar-bench",
        split="test",
        licence="MIT",
        columns=Columns(answer="label", options="options", uid="question_id", group="category"),
        prompt=_LISTED,
        metric="accuracy",
        score=score_choice,
        max_new_tokens=16,
        where=(("category", category),) if category else (),
        read=_read_vstar,
    )


VSTAR = _vstar("vstar", "V*Bench: attributes and positions of small objects", "")
VSTAR_ATTRIBUTE = _vstar("vstar_attribute", "V*Bench, attributes only", "direct_attributes")
VSTAR_POSITION = _vstar("vstar_position", "V*Bench, relative positions only", "relative_position")


def _hrbench(side: str) -> Task:
    return Task(
        name=f"hrbench{side}",
        title=f"HR-Bench {side.upper()}: one and several objects, every question in 4 orders of its options",
        dataset="DreamMr/HR-Bench",
        config="hrbench_version_split",
        split=f"hrbench_{side}",
        licence="see the dataset card",
        columns=Columns(options=("A", "B", "C", "D"), uid="index", group="category"),
        prompt="{question}\n{options}\nAnswer the option letter directly.",
        metric="accuracy",
        score=score_choice,
        max_new_tokens=16,
    )


HRBENCH4K = _hrbench("4k")
HRBENCH8K = _hrbench("8k")


def _read_realworldqa(row: Row) -> Row:
    """Questions with letters have their options in the text; the others have none."""
    is_letter = str(row["answer"]).strip() in tuple("ABCD")
    options = split_options(str(row["question"]), LINES)[1] if is_letter else ()
    # The line that asks for the letter follows the last option.
    return {**row, "options": [option.split("\n")[0] for option in options]}


def _score_realworldqa(example: Example, prediction: str) -> float:
    if example.answers[0].strip() in tuple("ABCD"):
        return score_choice(example, prediction)
    return exact_match(prediction, example.answers)


REALWORLDQA = Task(
    name="realworldqa",
    title="RealWorldQA: street scenes and everyday pictures",
    dataset="lmms-lab-encoder/RealWorldQA",
    split="test",
    licence="CC BY-ND 4.0",
    columns=Columns(options="options"),
    prompt="{question}",
    metric="accuracy",
    score=_score_realworldqa,
    max_new_tokens=16,
    read=_read_realworldqa,
)


def _read_mme_realworld(row: Row) -> Row:
    options = [re.sub(r"^\([A-E]\)\s*", "", text) for text in row["multi-choice options"]]
    kind = "Perception" if "perception" in str(row["category"]).lower() else "Reasoning"
    return {**row, "options": options, "kind": f"{kind}/{row['l2-category']}"}


MME_REALWORLD = Task(
    name="mme_realworld",
    title="MME-RealWorld (English): five fields, up to 5K pictures",
    dataset="yifanzhang114/MME-RealWorld-Lmms-eval",
    split="train",
    licence="see the dataset card",
    columns=Columns(pictures=("bytes",), options="options", uid="index", group="kind"),
    prompt="{question} The choices are listed below:\n{options}\nSelect the best answer to the above "
    "multiple-choice question based on the image. Respond with only the letter (A, B, C, D, or E) of the "
    "correct option.\nThe best answer is:",
    option="({letter}) {text}",
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
    read=_read_mme_realworld,
)

FOUR_K_PRO = Task(
    name="4kpro",
    title="4KPro from local files (it is not published): 4K pictures of four professional fields",
    dataset="",
    split="test",
    licence="not published",
    columns=Columns(options="options", uid="id", group="category", regions="boxes"),
    prompt=_LISTED,
    metric="accuracy",
    score=score_choice,
    max_new_tokens=16,
)
