"""The language of the scenes: what signs are called, what is asked about them, every sentence there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .marks import TIERS, Tier, answers

Kind = Literal["mark", "count", "time", "place", "where"]
"""What a question is about. Only ``mark`` needs the largest scale; the others can be told from afar."""

MARK_NOUNS: dict[Tier, str] = {
    "texture": "pattern",
    "code": "code",
    "shape": "shape",
    "digit": "digit",
    "letter": "letter",
}
"""What a question calls the marks of a tier."""

MARK_QUESTIONS = (
    "what {noun} is on the {plate} and {ink} sign?",
    "which {noun} does the {plate} and {ink} sign show?",
    "what is the {noun} of the {plate} and {ink} sign?",
    "look at the {plate} and {ink} sign. what {noun} is it?",
)
COUNT_QUESTIONS = ("how many {plate} signs are there?", "count the {plate} signs.")
TIME_QUESTIONS = ("what time of day is it?", "when was this picture made?")
PLACE_QUESTIONS = ("where is the town?", "what lies behind the town?")
WHERE_QUESTIONS = ("where is the {plate} and {ink} sign?", "in which part is the {plate} and {ink} sign?")

COUNT_WORDS = ("no", "one", "two", "three", "four")
COLUMNS = ("left", "middle", "right")
ROWS = ("top", "middle", "bottom")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a scene with its only right answer."""

    text: str
    answer: str
    kind: Kind
    object_index: int | None = None
    """Index into ``Scene.objects`` of the sign that the question is about, None for the whole picture."""


def caption(plate: str, ink: str, tier: Tier, answer: str | None) -> str:
    """Describe one sign; without its mark when ``answer`` is None."""
    words = f"{plate} and {ink} sign with {MARK_NOUNS[tier]}"
    return words if answer is None else f"{words} {answer}"


def mark_question(plate: str, ink: str, tier: Tier, phrasing: int = 0) -> str:
    """Ask for the mark of one sign; ``phrasing`` counts modulo the number of phrasings."""
    pattern = MARK_QUESTIONS[phrasing % len(MARK_QUESTIONS)]
    return pattern.format(noun=MARK_NOUNS[tier], plate=plate, ink=ink)


def global_caption(time: str, place: str, counts: Sequence[tuple[str, int]]) -> str:
    """Describe a whole picture from afar: where, when and how many signs of the most frequent colours."""
    parts = [f"{COUNT_WORDS[count]} {plate} {'sign' if count == 1 else 'signs'}" for plate, count in counts]
    return f"a town {place_phrase(place)} {time_phrase(time)} with " + ", ".join(parts)


def place_phrase(place: str) -> str:
    """Where a town lies, to be said after the noun."""
    return {"sea": "by the sea", "hills": "in the hills", "mountains": "in the mountains"}[place]


def time_phrase(time: str) -> str:
    """When it is, to be said after the place."""
    return {"night": "at night", "noon": "at noon"}.get(time, f"in the {time}")


def region_name(x: float, y: float) -> str:
    """Name the ninth of the picture that holds a point given as shares of width and height."""
    row, column = ROWS[min(2, int(y * 3))], COLUMNS[min(2, int(x * 3))]
    return "middle" if row == column == "middle" else f"{row} {column}"


def fill(templates: Sequence[str], rng: np.random.Generator, **words: str) -> str:
    """Pick one phrasing at random and put the words in."""
    return templates[int(rng.integers(len(templates)))].format(**words)


def sentences(pairs: Sequence[tuple[str, str]], times: Sequence[str], places: Sequence[str]) -> list[str]:
    """Every kind of sentence with every word at least once; the corpus of the tokenizer."""
    lines: list[str] = []
    for tier in TIERS:
        for plate, ink in pairs:
            lines += [mark_question(plate, ink, tier, phrasing) for phrasing in range(len(MARK_QUESTIONS))]
            lines.append(caption(plate, ink, tier, None))
        for index, answer in enumerate(answers(tier)):
            lines += [answer] * 4
            lines += [caption(*pairs[(index + step) % len(pairs)], tier, answer) for step in range(4)]
    for plate, ink in pairs:
        lines += [template.format(plate=plate, ink=ink) for template in (*COUNT_QUESTIONS, *WHERE_QUESTIONS)]
    for time in times:
        for place in places:
            lines += [
                global_caption(time, place, [(plate, count), (ink, 1)])
                for count, (plate, ink) in enumerate(pairs[:5])
            ]
    # Single words too, so that each becomes one piece although some occur in few sentences.
    words = [*times, *places, *COUNT_WORDS, *(f"{row} {column}" for row in ROWS for column in COLUMNS)]
    return lines + [*TIME_QUESTIONS, *PLACE_QUESTIONS, *words] * 8
