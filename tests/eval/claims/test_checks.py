"""Verdicts follow from numbers by one rule."""

import pytest

from eval.claims.checks import answer_row, explain, other_marks, paired_check
from eval.claims.claim import Check, Finding
from eval.store import Prediction


def check(low, high, **values):
    return Check(statement="s", value=(low + high) / 2, low=low, high=high, **values)


@pytest.mark.parametrize(
    ("low", "high", "values", "outcome"),
    [
        (0.1, 2, {}, "holds"),
        (-2, -0.1, {}, "does not hold"),
        (-1, 2, {}, "undecided"),
        (0, 2, {}, "undecided"),
        (1.0, 1.2, {"bound": 1.5, "at_least": False}, "holds"),
        (1.6, 1.9, {"bound": 1.5, "at_least": False}, "does not hold"),
    ],
)
def test_the_whole_interval_decides(low, high, values, outcome):
    assert check(low, high, **values).outcome == outcome


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(1, 2), (1, 2)], "reproduced"),
        ([(1, 2), (-1, 2)], "reproduced in part"),
        ([(1, 2), (-2, -1)], "reproduced in part"),
        ([(-1, 2), (-2, -1)], "not reproduced"),
        ([(-1, 2)], "undecided"),
    ],
)
def test_a_claim_is_as_good_as_its_checks(intervals, verdict):
    assert Finding(checks=tuple(check(*each) for each in intervals), tables=()).verdict == verdict


def test_a_difference_is_paired():
    right, wrong = [1.0, 0.0] * 50, [0.0, 1.0] * 50
    better = [1.0, 1.0] * 25 + right[50:]
    assert paired_check("s", better, right).outcome == "holds"
    assert paired_check("s", better, right).value == 25
    assert paired_check("s", right, wrong).outcome == "undecided"
    with pytest.raises(ValueError, match="zip"):
        paired_check("s", right, wrong[:3])


def predictions(*pairs):
    shared = {"condition": "c", "prediction": "", "answer": "a", "group": "g", "patches": 8}
    return [
        Prediction(uid=str(i), score=score, recall=recall, visual_tokens=6, seconds=0.5, **shared)
        for i, (score, recall) in enumerate(pairs)
    ]


def test_a_row_tells_marks_that_were_seen_from_others():
    row = answer_row(predictions((1.0, 0.9), (0.0, 0.6), (0.0, 0.1), (0.0, 0.0)), guide="prompt")
    assert (row["guide"], row["accuracy"], row["recall"]) == ("prompt", 25.0, pytest.approx(40.0))
    assert (row["seen"], row["unseen"]) == (50.0, 0.0)
    blind = answer_row(predictions((1.0, None)), guide="none")
    assert (blind["recall"], blind["seen"]) == (None, None)


def test_reasons_come_from_the_numbers():
    text = explain(predictions((1.0, 0.9), (0.0, 0.0)), predictions((0.0, 0.9), (0.0, 0.9)), ("few", "many"))
    assert "few: the mark is seen in 50 % of the samples, 100 % right there, 0 % elsewhere" in text
    assert "many: the mark is seen in 100 % of the samples, 0 % right there, - elsewhere" in text


def test_wrong_answers_that_fit_another_sign_are_counted():
    shared = {"condition": "c", "group": "g", "patches": 8, "recall": 0.9, "visual_tokens": 6, "seconds": 0.5}
    said = [("s-1-0", "dots", "Stripes"), ("s-1-1", "stripes", "waves"), ("s-1-2", "waves", "waves")]
    found = [
        Prediction(uid=uid, answer=answer, prediction=text, score=float(answer == text), **shared)
        for uid, answer, text in [*said, ("s-2-0", "rings", "stripes"), ("s-2-1", "checks", "zigzag")]
    ]
    assert other_marks(found) == 50
    assert "and 50 % of the wrong answers name another sign's mark" in explain(found, found, ("a", "b"))
    assert other_marks([found[0], found[3]]) is None


def test_equal_scores_are_no_gain():
    none = paired_check("s", [1.0, 0.0] * 20, [1.0, 0.0] * 20)
    assert (none.value, none.low, none.high, none.outcome) == (0, 0, 0, "undecided")
