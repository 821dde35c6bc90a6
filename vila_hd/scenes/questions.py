"""Questions about a scene, and the corpus of everything that can be said about scenes."""

import numpy as np

from . import language
from .language import Kind, Question
from .layout import COLOUR_PAIRS, Scene
from .town import PLACES, TIMES


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question about the mark of every sign, then some about what can be seen from afar."""
    found = [
        Question(
            text=language.fill(
                language.MARK_QUESTIONS,
                rng,
                noun=language.MARK_NOUNS[item.tier],
                plate=item.plate,
                ink=item.ink,
            ),
            answer=item.answer,
            kind="mark",
            object_index=index,
        )
        for index, item in enumerate(scene.objects)
    ]
    plates = sorted({plate for plate, _ in COLOUR_PAIRS})
    plate = plates[int(rng.integers(len(plates)))]
    count = sum(item.plate == plate for item in scene.objects)
    index = int(rng.integers(len(scene.objects)))
    return [
        *found,
        Question(
            text=language.fill(language.COUNT_QUESTIONS, rng, plate=plate),
            answer=language.COUNT_WORDS[count],
            kind="count",
        ),
        Question(text=language.fill(language.TIME_QUESTIONS, rng), answer=scene.time, kind="time"),
        Question(
            text=language.fill(language.PLACE_QUESTIONS, rng),
            answer=language.place_phrase(scene.place),
            kind="place",
        ),
        where_question(scene, index, rng),
    ]


def where_question(scene: Scene, index: int, rng: np.random.Generator) -> Question:
    """Ask for the part of the picture that sign ``index`` is in."""
    item = scene.objects[index]
    x, y = (item.box[0] + item.box[2]) / 2 / scene.size[0], (item.box[1] + item.box[3]) / 2 / scene.size[1]
    return Question(
        text=language.fill(language.WHERE_QUESTIONS, rng, plate=item.plate, ink=item.ink),
        answer=language.region_name(x, y),
        kind="where",
        object_index=index,
    )


def far_answers(kind: Kind) -> list[str]:
    """Every answer that a question of a kind other than ``mark`` can have."""
    known: dict[Kind, list[str]] = {
        "count": list(language.COUNT_WORDS),
        "time": list(TIMES),
        "place": [language.place_phrase(place) for place in PLACES],
        "where": [language.region_name(x, y) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)],
    }
    return known[kind]


def vocabulary_corpus() -> list[str]:
    """Sentences that hold every word of the language; what the tokenizer is trained on."""
    return language.sentences(COLOUR_PAIRS, TIMES, PLACES)
