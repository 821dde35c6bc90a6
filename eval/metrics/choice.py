"""The letter that an answer to a multiple-choice question stands for.

Rules only, in the spirit of the heuristic matching of MMBench (Liu et al. 2023, section 4.2) but without its
fallback to a language model, and without the random guess of MMMU's script: an answer that names no option,
or two, is wrong.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

_ANSWER_IS = r"(?:answer|choice|option)\b(?:\s+(?:is|would\s+be|should\s+be))?\s*[:=]?\s*"
_WRAP = r"[\s*_`$\"'(\[{<]*"


def _stated(text: str, letters: str) -> list[str]:
    """Letters that ``text`` names as the answer in so many words, in order."""
    boxed = re.findall(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*\(?([A-Z])\)?\s*\}", text)
    if boxed:
        return [letter for letter in boxed if letter in letters]
    # The letter is upper case unless nothing follows: "the answer is a dog" names no option.
    said = re.findall(rf"(?i:{_ANSWER_IS}){_WRAP}(?:([A-Z])(?![\w'])|([a-z])[\s*_`$\"')\]}}>.]*$)", text)
    found = [(upper or lower).upper() for upper, lower in said]
    return [letter for letter in found if letter in letters]


def _leading(text: str, letters: str) -> str | None:
    """The letter that ``text`` begins with or consists of: ``B``, ``(b)``, ``B. red``, ``**B**: red``."""
    alone = re.fullmatch(rf"{_WRAP}([A-Za-z])[\s*_`$\"')\]}}>.:,;]*", text)
    marked = re.match(r"[\s*_`$\"']*[(\[]([A-Za-z])[)\]]", text) or re.match(
        r"[\s*_`$\"']*([A-Z])[*_`$\"']*(?:[.):,;]|\n|\s+-)", text
    )
    # "(A) or (C)" and "A, B" choose nothing.
    if marked and re.match(rf"[\s*_`.)\]:]*(?:,|or\b|and\b|&){_WRAP}[A-Z](?![\w'])", text[marked.end(1) :]):
        return None
    match = alone or marked
    letter = match.group(1).upper() if match else ""
    return letter if letter and letter in letters else None


def _squeeze(text: str) -> str:
    """Lower case, single blanks, no marks around."""
    return " ".join(text.lower().split()).strip(" .,:;!?*_`\"'()[]")


def _by_text(text: str, options: Sequence[str]) -> str | None:
    """The only option whose text is the answer or occurs in it as whole words."""
    said = _squeeze(text)
    texts = [_squeeze(option) for option in options]
    if said and texts.count(said) == 1:
        return ascii_uppercase[texts.index(said)]
    hits = [
        number
        for number, option in enumerate(texts)
        if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said)
    ]
    # "red car" also contains the option "red": the longest one that covers the others counts.
    longest = [
        number
        for number in hits
        if not any(other != number and texts[number] in texts[other] for other in hits)
    ]
    return ascii_uppercase[longest[0]] if len(longest) == 1 else None


def find_choice(prediction: str, options: Sequence[str]) -> str | None:
    """The letter of the option that ``prediction`` chooses; None when it chooses none or several.

    Args:
        prediction: what the model wrote.
        options: texts of A, B, C, ...; empty texts when only letters were shown.
    """
    letters = ascii_uppercase[: len(options)]
    text = prediction.strip()
    leading = _leading(text, letters)
    if leading is not None:
        return leading
    stated = _stated(text, letters)
    if stated:
        return stated[-1]  # a model that corrects itself means the last one
    # The text goes before loose letters: in "I see a car" only "car" says something.
    by_text = _by_text(text, options)
    if by_text is not None:
        return by_text
    marked = (
        set(re.findall(rf"\(([{letters}])\)|(?<!\w)([{letters}])[.):](?!\w)", text)) if letters else set()
    )
    found = {first or second for first, second in marked}
    if not found and letters:
        # A and I are words too when something follows them.
        found = set(
            re.findall(
                rf"(?<![\w'])([{letters}])(?![\w'])", re.sub(r"\b[AI]\s+(?!or\b|and\b)(?=[a-z])", "", text)
            )
        )
    return found.pop() if len(found) == 1 else None


def choice_accuracy(prediction: str, options: Sequence[str], answer: str) -> float:
    """1.0 when ``prediction`` chooses the option of letter ``answer``, else 0.0."""
    return float(find_choice(prediction, options) == answer.strip().upper())
