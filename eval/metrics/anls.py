"""Average normalised Levenshtein similarity (DocVQA, InfographicVQA).

Source: Biten et al. 2019, "Scene Text Visual Question Answering"; threshold and normalisation are those of
the DocVQA evaluation script of the Robust Reading Competition.
"""

from collections.abc import Sequence

THRESHOLD = 0.5
"""Less similar than this is wrong. The script keeps 0.5 itself, where the paper's formula drops it."""


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and replacements of characters that turn ``first`` into ``second``."""
    if len(first) < len(second):
        first, second = second, first
    above = list(range(len(second) + 1))
    for row, character in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            replace = above[column - 1] + (character != other)
            current.append(min(above[column] + 1, current[column - 1] + 1, replace))
        above = current
    return above[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Similarity, 0 to 1, to the closest of ``answers``; 0.0 below ``THRESHOLD``.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    said = " ".join(prediction.lower().split())
    best = 0.0
    for answer in answers:
        expected = " ".join(answer.lower().split())
        length = max(len(prediction), len(answer))  # with their blanks, as in the script
        best = max(best, 1 - edit_distance(said, expected) / length if length else 1.0)
    return best if best >= THRESHOLD else 0.0
