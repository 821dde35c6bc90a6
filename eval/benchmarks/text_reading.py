"""Reading text in photographs, documents, charts and infographics."""

from dataclasses import replace

from ..metrics.anls import anls
from ..metrics.ocrbench import contains_answer
from ..metrics.relaxed import relaxed_accuracy
from ..metrics.vqa import vqa_accuracy
from ..registry import Example
from .tasks import SHORT, Columns, Task


def _score_vqa(example: Example, prediction: str) -> float:
    return vqa_accuracy(prediction, example.answers)


def _score_anls(example: Example, prediction: str) -> float:
    return anls(prediction, example.answers)


def _score_relaxed(example: Example, prediction: str) -> float:
    return max(relaxed_accuracy(prediction, answer) for answer in example.answers)


def _score_ocrbench(example: Example, prediction: str) -> float:
    return contains_answer(prediction, example.answers, formula=example.rule == "HME100k")


TEXTVQA_VAL = Task(
    name="textvqa_val",
    title="TextVQA, validation: text in photographs",
    dataset="lmms-lab-encoder/textvqa",
    split="validation",
    licence="CC BY 4.0",
    columns=Columns(answer="answers", uid="question_id"),
    prompt="{question}\n" + SHORT,
    metric="VQA accuracy",
    score=_score_vqa,
    max_new_tokens=16,
)

DOCVQA_VAL = Task(
    name="docvqa_val",
    title="DocVQA, validation: scanned documents",
    dataset="lmms-lab-encoder/DocVQA",
    config="DocVQA",
    split="validation",
    licence="terms of rrc.cvc.uab.es",
    columns=Columns(answer="answers", uid="questionId"),
    prompt="{question}\n" + SHORT,
    metric="ANLS",
    score=_score_anls,
    max_new_tokens=32,
)

INFOVQA_VAL = replace(
    DOCVQA_VAL,
    name="infovqa_val",
    title="InfographicVQA, validation: infographics",
    config="InfographicVQA",
)

CHARTQA = Task(
    name="chartqa",
    title="ChartQA, test: charts, asked by people and by templates",
    dataset="lmms-lab-encoder/ChartQA",
    split="test",
    licence="GPL-3.0",
    columns=Columns(group="type"),
    prompt="{question}\nAnswer the question with a single word.",
    metric="relaxed accuracy",
    score=_score_relaxed,
    max_new_tokens=16,
)

OCRBENCH = Task(
    name="ocrbench",
    title="OCRBench: 1000 questions about text, documents and handwritten formulas",
    dataset="echo840/OCRBench",
    split="test",
    licence="MIT",
    columns=Columns(group="question_type", rule="dataset"),
    prompt="{question}",
    metric="OCRBench score",
    score=_score_ocrbench,
    full_score=1000.0,
    max_new_tokens=128,
)
