"""Relaxed accuracy: numbers may be 5 % off (ChartQA).

Source: Masry et al. 2022, "ChartQA", section 5.1 (after Methani et al. 2020, "PlotQA"), in the form of
Pix2Struct: a percentage is its hundredth, and an expected zero is compared as text.
"""

import math

TOLERANCE = 0.05


def to_number(text: str) -> float | None:
    """The number that ``text`` is, ``12%`` being 0.12; None when it is none."""
    stripped = text.strip()
    try:
        number = float(stripped.rstrip("%")) / 100 if stripped.endswith("%") else float(stripped)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = TOLERANCE) -> float:
    """1.0 when both are numbers at most ``tolerance`` of the expected one apart, or equal texts; else 0.0."""
    said, expected = to_number(prediction), to_number(answer)
    if said is not None and expected:
        return float(abs(said - expected) / abs(expected) <= tolerance)
    return float(prediction.strip().lower() == answer.strip().lower())
