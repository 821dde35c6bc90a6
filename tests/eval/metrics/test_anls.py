import pytest

from eval.metrics.anls import anls, edit_distance


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Hello  World", ["hello world"], 1.0),
        ("helo", ["hello"], 0.8),
        ("ab", ["ac"], 0.5),  # the threshold itself counts
        ("abc", ["axy"], 0.0),
        ("", ["x"], 0.0), ("", [""], 1.0),
        ("12.5%", ["$12.5", "12.5%"], 1.0),
        ("1,000", ["1000"], 0.8),
    ],
)  # fmt: skip
def test_the_closest_answer_counts_above_the_threshold(prediction, answers, score):
    assert anls(prediction, answers) == pytest.approx(score)


def test_no_answer_is_an_error():
    with pytest.raises(ValueError, match="no answers"):
        anls("x", [])
