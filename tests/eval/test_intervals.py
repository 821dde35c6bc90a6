import itertools

import pytest

from eval.intervals import mcnemar, mean_interval, paired_p_value, sign_flip
from eval.report import wilson_interval


def test_right_or_wrong_has_wilsons_interval():
    assert mean_interval([1.0, 0.0, 1.0, 1.0]) == wilson_interval(3, 4)


def test_the_bootstrap_holds_the_mean_and_narrows_with_more_samples():
    few = [0.0, 0.25, 0.5, 1.0] * 4
    low, high = mean_interval(few)
    assert low < sum(few) / len(few) < high
    closer = mean_interval(few * 16)
    assert closer[1] - closer[0] < 0.5 * (high - low)
    # The normal interval of the mean: 1.96 standard errors either way.
    assert high - low == pytest.approx(2 * 1.96 * 0.3698 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (3, 3, 1.0), (1, 4, 12 / 32)],
)
def test_mcnemar_is_the_binomial_test_of_the_flips(gained, lost, expected):
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_sign_flip_agrees_with_all_sign_patterns():
    differences = [0.5, -0.1, 0.3, 0.2, 0.0, 0.4]
    values = [value for value in differences if value]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    exact = sum(total >= sum(values) - 1e-12 for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip([0.0, 0.0]) == 1.0


def test_the_test_follows_the_scores():
    assert paired_p_value([0.0, 1.0], [1.0, 1.0]) == ("McNemar, exact", 1.0)
    assert paired_p_value([0.0, 0.5], [1.0, 1.0])[0] == "sign flips"
