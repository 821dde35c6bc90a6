"""Seeded 4K pictures of a town with coloured signs whose small marks only the largest scale can read."""

from .drawing import render
from .language import Question
from .layout import (
    COLOUR_PAIRS,
    COLOURS,
    SPLITS,
    Scene,
    SceneConfig,
    SceneObject,
    make_scene,
    split_seeds,
)
from .marks import TIERS, Tier, answers
from .questions import questions, vocabulary_corpus
from .tokenizer import build_scene_tokenizer

__all__ = [
    "COLOURS",
    "COLOUR_PAIRS",
    "SPLITS",
    "TIERS",
    "Question",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "Tier",
    "answers",
    "build_scene_tokenizer",
    "make_scene",
    "questions",
    "render",
    "split_seeds",
    "vocabulary_corpus",
]
