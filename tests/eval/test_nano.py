"""The bundled model keeps what its card promises, on a few held-out scenes."""

import json

import pytest
import torch
from safetensors.torch import load_file

import vila_hd
from eval.answering import Answerer
from eval.benchmarks.scenes import SceneBenchmark
from eval.conditions import cross
from vila_hd.loading import BUNDLED
from vila_hd.scenes import TIERS

COUNT = 40
MAX_BYTES = 20_000_000


@pytest.fixture(scope="module")
def accuracy():
    """Share of right answers per condition, and at the default budget per kind of mark."""
    benchmark = SceneBenchmark(count=COUNT, split="validation")
    conditions = cross(["0", "144", "auto"], ["prompt"])
    answerer = Answerer("nano")
    right = {condition.key: 0.0 for condition in conditions}
    scores: dict[str, list[float]] = {tier: [] for tier in TIERS}
    for start in range(0, COUNT, 8):
        examples = [benchmark.example(index) for index in range(start, start + 8)]
        for row in answerer.answer(benchmark, examples, conditions):
            right[row.condition] += row.score / COUNT
            if row.condition == "prompt-auto":
                scores[row.group].append(row.score)
    return {**right, **{tier: sum(found) / len(found) for tier, found in scores.items()}}


def test_it_is_small_and_in_bfloat16():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= MAX_BYTES
    assert json.loads((BUNDLED / "config.json").read_text())["dtype"] == "bfloat16"
    weights = load_file(BUNDLED / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_its_processor_counts_tokens_with_its_budget():
    model, processor = vila_hd.load("nano")
    assert processor.default_budget == model.config.default_budget


def test_it_sees_4k():
    model, _ = vila_hd.load("nano")
    assert model.config.vision_config.ps3_scales[-1] >= 3780


def test_it_answers_at_its_default_budget(accuracy):
    assert accuracy["prompt-auto"] >= 0.85


@pytest.mark.parametrize("tier", TIERS)
def test_it_reads_marks_of_every_tier(accuracy, tier):
    assert accuracy[tier] >= 0.6


def test_it_cannot_read_marks_from_afar(accuracy):
    assert accuracy["low-res"] <= 0.3


def test_a_larger_budget_helps(accuracy):
    assert accuracy["low-res"] < accuracy["prompt-144"] < accuracy["prompt-auto"]


def test_its_card_names_the_command_that_made_it():
    assert "configs/train/nano.yaml" in (BUNDLED / "README.md").read_text()
