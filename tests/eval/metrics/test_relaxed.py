import pytest

from eval.metrics.relaxed import relaxed_accuracy, to_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), (" 12.5 ", 12.5), ("12%", 0.12), ("-3", -3), ("1,000", None), ("%", None), ("", None),
     ("nan", None), ("inf", None), ("1e3", 1000)],
)  # fmt: skip
def test_numbers(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("105", "100", 1.0), ("95", "100", 1.0), ("105.1", "100", 0.0), ("-95", "-100", 1.0),
        ("-100", "100", 0.0), ("12%", "0.12", 1.0), ("12", "12%", 0.0), ("0", "0", 1.0), ("0.0", "0", 0.0),
        ("0.01", "0", 0.0), (" Yes", "yes", 1.0), ("yes.", "yes", 0.0), ("", "5", 0.0),
        ("1,000", "1000", 0.0),
        ("1,000", "1,000", 1.0), ("$5", "5", 0.0),
    ],
)  # fmt: skip
def test_five_percent_for_numbers_equality_for_the_rest(prediction, answer, score):
    assert relaxed_accuracy(prediction, answer) == score
