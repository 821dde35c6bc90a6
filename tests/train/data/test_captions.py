"""Openers go, words stay."""

import numpy as np
import pytest

from train.data.captions import clean_caption, mask_sentences, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The second image is a close-up of a red door.", "a red door."),
        ("The image is a close-up view of a red door.", "a red door."),
        ("The second image shows a cropped view of a red door. It is old.", "a red door. It is old."),
        ("The image depicts the roof.", "the roof."),
        ("A door. There is no visible text.", "A door."),
        ("A sign. The visible text says STOP.", "A sign. The visible text says STOP."),
        ("There is no visible text.", "There is no visible text."),
        ("The images hang on a wall.", "The images hang on a wall."),
        ("Invoice No. 7", "Invoice No. 7"),
    ],
)
def test_cleaning(text, expected):
    assert clean_caption(text) == expected


def test_masking_takes_a_run_from_the_first_three_sentences():
    text = "One. Two! Three? Four. Five."
    sentences = split_sentences(text)
    assert sentences == ["One.", "Two!", "Three?", "Four.", "Five."]
    rng = np.random.default_rng(0)
    runs = {tuple(split_sentences(mask_sentences(text, rng))) for _ in range(500)}
    assert runs == {tuple(sentences[a:b]) for a in range(3) for b in range(a + 1, 6)}
    assert mask_sentences("only one", rng) == "only one"
