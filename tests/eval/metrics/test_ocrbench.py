import pytest

from eval.metrics.ocrbench import contains_answer


@pytest.mark.parametrize(
    ("prediction", "answers", "formula", "score"),
    [
        ("The text is RONALDO.", ["ronaldo"], False, 1.0), ("Ron aldo", ["ronaldo"], False, 0.0),
        ("line\nbreak", ["line break"], False, 1.0), ("", ["x"], False, 0.0), ("7", ["8", "7"], False, 1.0),
        ("\\frac { a } { b }", ["\\frac{a}{b}"], True, 1.0), ("X + y", ["x+y"], True, 0.0),
        ("so x + y", ["x+y"], True, 1.0),
    ],
)  # fmt: skip
def test_the_answer_occurs(prediction, answers, formula, score):
    assert contains_answer(prediction, answers, formula=formula) == score
