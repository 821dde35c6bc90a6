"""Choices: those written into a question, and scoring them."""

import re
from string import ascii_uppercase

from ..metrics.choice import choice_accuracy
from ..registry import Example

PARENTHESES = r"\({}\)\s*"
LINES = r"^\s*{}[.:)]\s+"
COLONS = r"(?:^|[\s,]){}:\s*"
"""How data sets mark the option of a letter: ``(A) red``, a line ``A. red``, ``A: red, B: blue``."""


def split_options(text: str, marker: str) -> tuple[str, tuple[str, ...]]:
    """The question and the texts of the options that ``text`` ends with; no options: fewer than two marked.

    Args:
        text: a question with options A, B, ... in order.
        marker: pattern with ``{}`` for the letter.
    """
    spans: list[tuple[int, int]] = []
    for letter in ascii_uppercase:
        found = re.compile(marker.format(letter), re.MULTILINE).search(text, spans[-1][1] if spans else 0)
        if found is None:
            break
        spans.append(found.span())
    if len(spans) < 2:
        return text.strip(), ()
    ends = [start for start, _ in spans[1:]] + [len(text)]
    options = tuple(text[start:end].strip(" \n,") for (_, start), end in zip(spans, ends, strict=True))
    return text[: spans[0][0]].strip(), options


def score_choice(example: Example, prediction: str) -> float:
    """1.0 for the right letter, however the prediction gives it; else 0.0."""
    answer = example.answers[0]
    # Four letters where the texts of the options are not known.
    return choice_accuracy(prediction, example.options or ("",) * max(4, ord(answer) - 64), answer)
