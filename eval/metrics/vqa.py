"""VQA accuracy against the answers of several people (VQA v2, TextVQA).

Source: Antol et al. 2015, "VQA: Visual Question Answering", and the answer processing of EvalAI that the
TextVQA leaderboard uses: case, punctuation, number words, articles and apostrophes do not count.
"""

import re
from collections.abc import Sequence

NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip

ARTICLES = ("a", "an", "the")

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Not the full stop, which is kept inside numbers, and not the apostrophe."""

_CONTRACTED = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
shouldn't somebody'd somebody'll somebody's someone'd someone'll someone's something'd something'll that's
there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's
what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've
wouldn't y'all you'd you'll you're you've
"""
_CONTRACTED_TWICE = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've
"""

CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
"""Without apostrophe -> with. Words that mean something else without one (were, ill, hell) are left out,
and so are im and ive: the table of EvalAI spells them with a capital, which no lower-case word meets."""

for _double in _CONTRACTED_TWICE.split():
    _first, _second, _third = _double.split("'")
    CONTRACTIONS |= {f"{_first}{_second}'{_third}": _double, f"{_first}'{_second}{_third}": _double}


def normalise(answer: str) -> str:
    """``answer`` as EvalAI compares it."""
    # EvalAI drops commas first, so 1,000 and 1000 are equal, and sets a possessive s apart.
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = " ".join(text.split())
    glued = text
    for mark in PUNCTUATION:
        # A mark with a blank beside it vanishes; one between two characters becomes a blank.
        beside_blank = f"{mark} " in text or f" {mark}" in text
        glued = glued.replace(mark, "" if beside_blank else " ")
    glued = re.sub(r"\.(?!\d)", "", glued)
    words = (NUMBER_WORDS.get(word, word) for word in glued.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the people of min(1, number of the *other* people who said the same / 3).

    With ten answers a prediction that three gave scores 0.9, four or more 1.0.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    said, expected = normalise(prediction), [normalise(answer) for answer in answers]
    if len(expected) == 1:
        return float(said == expected[0])
    matches = [answer == said for answer in expected]
    total = sum(matches)
    return sum(min(1.0, (total - own) / 3) for own in matches) / len(matches)
