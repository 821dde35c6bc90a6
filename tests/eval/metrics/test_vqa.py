import pytest

from eval.metrics.vqa import normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Car.", "red car"), ("1,000", "1000"), ("1.5", "1.5"), ("two", "2"), ("none", "0"),
        ("dont", "don't"), ("don't", "don't"), ("it's", "it 's"), ("yes!", "yes"), ("rock/roll", "rock roll"),
        ("self-service", "self service"), ("self -service", "self service"), ("U.S.A.", "usa"),
        ("St. Louis", "st louis"), ("10:30", "10:30"), ("$5", "$5"), ("50%", "50%"), ("a\n b\t", "b"),
        ("im", "im"), ("couldn'tve", "couldn't've"), ("(red)", "red"), ("", ""), ("the", ""),
        ("were", "were"),
    ],
)  # fmt: skip
def test_normalisation_of_evalai(text, expected):
    assert normalise(text) == expected
    assert normalise(expected.replace("it 's", "it's")) == expected


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_leaves_one_person_out(agreeing, score):
    answers = ["red"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("Red.", answers) == pytest.approx(score)


def test_one_answer_is_compared_exactly_and_none_is_an_error():
    assert vqa_accuracy("the dog", ["dog"]) == 1.0
    assert vqa_accuracy("cat", ["dog"]) == 0.0
    with pytest.raises(ValueError, match="no answers"):
        vqa_accuracy("cat", [])
