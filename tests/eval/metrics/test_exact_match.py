import pytest

from eval.metrics.exact_match import exact_match


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("red blue", 1.0), ("Red  Blue", 1.0), (" red blue. ", 1.0), ("red\nblue", 1.0),
        ("blue red", 0.0), ("red", 0.0), ("red blue green", 0.0), ("", 0.0), (".", 0.0),
    ],
)  # fmt: skip
def test_only_case_blanks_and_a_final_stop_are_forgiven(prediction, score):
    assert exact_match(prediction, ["red blue"]) == score


def test_any_of_several_answers_counts():
    assert exact_match("2", ["two", "2"]) == 1.0
