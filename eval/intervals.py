"""Intervals of scores, and tests of two models on the same questions."""

import math
from collections.abc import Sequence

import numpy as np

from .report import wilson_interval

RESAMPLES = 10_000
"""Of bootstraps and permutation tests; their generator starts from a fixed seed."""


def is_binary(scores: Sequence[float]) -> bool:
    """Whether every score is 0 or 1."""
    return all(score in (0.0, 1.0) for score in scores)


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean: Wilson's for right or wrong, else the percentile bootstrap's."""
    if is_binary(scores):
        return wilson_interval(sum(score == 1.0 for score in scores), len(scores))
    return bootstrap_interval(scores)


def bootstrap_interval(scores: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    values = np.asarray(scores)
    generator = np.random.default_rng(0)
    # Row by row: a matrix of all draws of a large benchmark would take gigabytes.
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES // 5)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of McNemar's test: were flips of right and wrong equally likely either way?

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947); the exact binomial form.
    """
    flips = gained + lost
    tail = sum(math.comb(flips, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**flips)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired permutation test: is the mean difference zero?"""
    values = np.asarray([difference for difference in differences if difference])
    if not len(values):
        return 1.0
    generator = np.random.default_rng(0)
    observed = abs(values.sum())
    extreme = sum(
        abs((values * generator.choice((-1.0, 1.0), size=len(values))).sum()) >= observed - 1e-12
        for _ in range(RESAMPLES)
    )
    return (extreme + 1) / (RESAMPLES + 1)


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> tuple[str, float]:
    """Name and p-value of the test that fits the scores of two models on the same questions."""
    if is_binary(first) and is_binary(second):
        pairs = list(zip(first, second, strict=True))
        return "McNemar, exact", mcnemar(pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0)))
    return "sign flips", sign_flip([b - a for a, b in zip(first, second, strict=True)])
