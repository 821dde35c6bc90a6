"""Questions that are answered by yes or no (MME, POPE).

Sources: Fu et al. 2023, "MME"; Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language
Models" (POPE).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

YesNo = Literal["yes", "no"]


def first_yes_no(prediction: str) -> YesNo | None:
    """MME: which of the two the first four letters hold, as its script has it; an answer that begins
    otherwise is neither.
    """
    beginning = prediction.strip().lower()[:4]
    return "yes" if "yes" in beginning else "no" if "no" in beginning else None


def pope_yes_no(prediction: str) -> YesNo:
    """POPE: the first sentence says no when it has the word no or not; everything else counts as yes."""
    words = re.findall(r"[a-z]+", prediction.split(".")[0].lower())
    return "no" if {"no", "not"} & set(words) else "yes"


def mme_score(pairs: Mapping[str, Sequence[float]]) -> float:
    """Score of one MME subtask, 0 to 200: accuracy in percent plus the share of pictures all right.

    Args:
        pairs: picture -> scores (1.0 or 0.0) of its questions, usually two.

    Raises:
        ValueError: no pictures.
    """
    if not pairs:
        raise ValueError("no pictures to score")
    questions = [score for scores in pairs.values() for score in scores]
    both = [all(score == 1.0 for score in scores) for scores in pairs.values()]
    return 100 * sum(questions) / len(questions) + 100 * sum(both) / len(both)


def detection_rates(said_yes: Sequence[bool], is_yes: Sequence[bool]) -> dict[str, float]:
    """F1, precision and recall of ``yes``, and how often it was said; shares from 0 to 1."""
    hits = sum(said and real for said, real in zip(said_yes, is_yes, strict=True))
    precision = hits / sum(said_yes) if any(said_yes) else 0.0
    recall = hits / sum(is_yes) if any(is_yes) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "F1": f1, "precision": precision, "recall": recall, "yes ratio": sum(said_yes) / len(said_yes),
    }  # fmt: skip
