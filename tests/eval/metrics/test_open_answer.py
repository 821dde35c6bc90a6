import pytest

from eval.metrics.open_answer import list_accuracy, number_accuracy, numbers_in, open_accuracy


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,000 and 2.5", [1000, 2.5]), ("-3", [-3]), ("10-5", [10, 5]), (".5", [0.5]), ("2e3", [2000]),
        ("5cm", [5]), ("x2", []), ("", []), ("1, 2", [1, 2]), ("3.", [3]), ("1,00", [1, 0]),
    ],
)  # fmt: skip
def test_numbers(text, numbers):
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("5", ["5"], 1), ("The answer is 5.", ["5"], 1), ("5.0", ["5"], 1), ("1,000", ["1000"], 1),
        ("so the result is 3.14159", ["3.14"], 1), ("$5", ["5"], 1), ("50%", ["50"], 1), ("15", ["5"], 0),
        ("We have 3 and 4. The sum is 7", ["7"], 1), ("We have 3 and 4. The sum is 7", ["3"], 0),
        ("x = 4\ny = 5", ["4"], 0), ("x = 4\ny = 5", ["5"], 1), ("It is a cat", ["dog", "cat"], 1),
        ("heat transfer", ["heat"], 1), ("The answer is e", ["e"], 1), ("The answer is tree", ["e"], 0),
        ("no idea", ["24"], 0), ("", ["24"], 0), ("anything", [""], 0),
    ],
)  # fmt: skip
def test_open_questions_of_mmmu(prediction, answers, score):
    assert open_accuracy(prediction, answers) == score


@pytest.mark.parametrize(
    ("prediction", "answer", "precision", "score"),
    [
        ("14", "14", 0, 1), ("The answer is 14.", "14", 0, 1), ("14.7", "14", 0, 1), ("1,400", "1400", 0, 1),
        ("3 + 4 = 7", "7", 0, 1), ("1.21", "1.2", 1, 1), ("1.26", "1.2", 1, 0),
        ("\\boxed{2.5} of 3", "2.5", 1, 1),
        ("fourteen", "14", 0, 0), ("", "14", 0, 0),
    ],
)  # fmt: skip
def test_numbers_of_mathvista(prediction, answer, precision, score):
    assert number_accuracy(prediction, answer, precision) == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [("[1, 2]", 1), ("so [1,2]", 1), ("[0] then [1, 2]", 1), ("1, 2", 0), ("[2, 1]", 0), ("[1]", 0), ("", 0)],
)
def test_lists_of_mathvista(prediction, score):
    assert list_accuracy(prediction, "[1, 2]") == score
