"""Exact match after the normalisation that free-form short answers need."""

from collections.abc import Sequence


def normalise(text: str) -> str:
    """Lower case, single blanks, and no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when ``prediction`` equals one of ``answers`` after :func:`normalise`, else 0.0."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})
