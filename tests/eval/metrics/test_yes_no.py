import pytest

from eval.metrics.yes_no import detection_rates, first_yes_no, mme_score, pope_yes_no


@pytest.mark.parametrize(
    ("prediction", "mme", "pope"),
    [
        ("Yes", "yes", "yes"), ("no.", "no", "no"), ("Yes, there is no doubt", "yes", "no"),
        ("There is not.", None, "no"), ("It is: yes", None, "yes"), ("yes or no", "yes", "no"),
        ("say yes or no", None, "no"), ("", None, "yes"), ("nothing", "no", "yes"),
        ("not at all", "no", "no"), (" yes", "yes", "yes"),
        ("A dog. No cat", None, "yes"),
        ("NO", "no", "no"), ("eyes", "yes", "yes"),
    ],
)  # fmt: skip
def test_yes_or_no(prediction, mme, pope):
    assert first_yes_no(prediction) == mme
    assert pope_yes_no(prediction) == pope


def test_mme_adds_pictures_with_all_right():
    assert mme_score({"a": [1.0, 1.0], "b": [1.0, 0.0]}) == 75 + 50
    assert mme_score({"a": [1.0, 1.0]}) == 200
    assert mme_score({"a": [0.0, 0.0]}) == 0
    with pytest.raises(ValueError, match="no pictures"):
        mme_score({})


def test_detection_rates():
    rates = detection_rates([True, True, False, False], [True, False, True, False])
    assert rates == {"F1": 0.5, "precision": 0.5, "recall": 0.5, "yes ratio": 0.5}
    assert detection_rates([False], [True]) == {"F1": 0.0, "precision": 0.0, "recall": 0.0, "yes ratio": 0.0}
