import pytest

from eval.metrics.choice import choice_accuracy, find_choice

OPTIONS = ("red", "a blue car", "green tree", "none")


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("A", "A"), ("b", "B"), ("(B)", "B"), ("(b) a blue car", "B"), ("C.", "C"), ("C)", "C"), ("D:", "D"),
        ("B. a blue car", "B"), ("B\nbecause", "B"), ("**C**", "C"), ("`C`", "C"), ("\\boxed{D}", "D"),
        ("\\boxed{\\text{D}}", "D"), ("$\\boxed{B}$", "B"), ("D: none", "D"),
        ("Answer: A", "A"), ("The answer is (C).", "C"), ("the answer is b", "B"), ("Answer: **B**", "B"),
        ("The correct option is D because A is wrong", "D"),
        ("The answer is A. No, the answer is B.", "B"),
        ("a blue car", "B"), ("A blue car is there", "B"), ("It is red.", "A"), ("None", "D"),
        ("I think (C) fits", "C"), ("it must be C", "C"), ("I see it: B", "B"),
        ("", None), ("E", None), ("The answer is E", None), ("the answer is a dog", None), ("A or B", None),
        ("red or none", None), ("a dog", None), ("I do not know", None), ("(A) or (C)", None),
        ("blue", None), ("hundred", None), ("A, B", None), ("A, because it is", "A"), ("A) and (B)", None),
    ],
)  # fmt: skip
def test_letter_that_an_answer_stands_for(prediction, letter):
    assert find_choice(prediction, OPTIONS) == letter


def test_an_option_inside_another_does_not_make_two():
    assert find_choice("it is a red car", ("red", "red car", "blue")) == "B"
    assert find_choice("10", ("1", "10", "100")) == "B"


def test_ten_options_and_options_without_texts():
    assert find_choice("J", ["x"] * 10) == "J"
    assert find_choice("The answer is (I).", ["x"] * 10) == "I"
    assert find_choice("I", [""] * 4) is None
    assert find_choice("C", [""] * 4) == "C"
    assert find_choice("perhaps", [""] * 4) is None
    assert find_choice("A", []) is None


def test_accuracy():
    assert choice_accuracy("(b)", OPTIONS, "B") == choice_accuracy("(b)", OPTIONS, " b") == 1.0
    assert choice_accuracy("(b)", OPTIONS, "C") == choice_accuracy("", OPTIONS, "C") == 0.0
