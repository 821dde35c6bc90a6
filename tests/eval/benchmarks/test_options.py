import pytest

from eval.benchmarks.options import COLONS, LINES, PARENTHESES, score_choice, split_options
from eval.registry import Example


@pytest.mark.parametrize(
    ("text", "marker", "expected"),
    [
        ("Which?\n(A) red\n(B) blue car", PARENTHESES, ("Which?", ("red", "blue car"))),
        ("Which? (A) red (B) blue", PARENTHESES, ("Which?", ("red", "blue"))),
        ("Which? (A) red", PARENTHESES, ("Which? (A) red", ())),
        ("Which (B)? (A) x (B) y", PARENTHESES, ("Which (B)?", ("x", "y"))),
        ("Which?\nA. Mr. B. Smith\nB. none", LINES, ("Which?", ("Mr. B. Smith", "none"))),
        ("How many?", LINES, ("How many?", ())),
        ("A: one, two, B: three, C: 3:2", COLONS, ("", ("one, two", "three", "3:2"))),
    ],
)
def test_options_are_cut_out_of_a_question(text, marker, expected):
    assert split_options(text, marker) == expected


def test_letters_alone_are_scored_when_texts_are_unknown():
    example = Example(uid="0", prompt="?", load_images=tuple, answers=("E",))
    assert score_choice(example, "(E)") == 1.0
    assert score_choice(example, "D") == 0.0
