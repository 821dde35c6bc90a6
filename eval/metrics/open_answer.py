"""Free-form answers of exams: numbers and short texts (MMMU, MathVista).

Sources: Yue et al. 2024, "MMMU", its rules for open questions; Lu et al. 2024, "MathVista", its precision per
question. MathVista's authors let a language model extract the answer first; here a rule does.
"""

import re
from collections.abc import Sequence

_NUMBER = r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_INTRODUCTIONS = (
    "could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ",
    "are ", "in total ", "total ", "identify ", "recognize ", "calculated as ", "equals ", "=",
)  # fmt: skip


def numbers_in(text: str) -> list[float]:
    """Numbers of ``text`` in order; 1,000 is one number."""
    return [float(found.replace(",", "")) for found in re.findall(_NUMBER, text)]


def _whole_number(text: str) -> float | None:
    bare = text.strip().strip("$%").replace(",", "")
    try:
        return round(float(bare), 2)
    except ValueError:
        return None


def _key_phrases(text: str) -> list[str]:
    """Where MMMU looks for the answer: behind the last introduction of every sentence that has one."""
    sentences = [part for part in re.split(r"\.\s(?=[A-Z])|\n", text.strip().rstrip(".").lower()) if part]
    found = []
    for number, sentence in enumerate(sentences):
        phrases = [
            sentence.rsplit(word, 1)[-1].strip()
            for word in _INTRODUCTIONS
            if word in sentence and (word != "=" or number == len(sentences) - 1)
        ]
        if phrases:
            found.append(min(phrases, key=len))
    return [phrase for phrase in found if phrase] or [text.strip().lower()]


def open_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """MMMU: 1.0 when a number equals an expected one to 2 digits, or the phrase that gives the answer
    holds an expected text; else 0.0.
    """
    phrases = _key_phrases(prediction)
    said = {round(number, 2) for phrase in phrases for number in numbers_in(phrase)}
    said |= {number for phrase in phrases if (number := _whole_number(phrase)) is not None}
    for answer in answers:
        expected = _whole_number(answer)
        if expected is not None:
            if expected in said:
                return 1.0
        elif any(_holds(phrase, answer) for phrase in phrases):
            return 1.0
    return 0.0


def _holds(phrase: str, answer: str) -> bool:
    """Whether ``answer`` occurs; a single letter must stand alone, for every word would hold it."""
    bare = answer.strip().lower()
    if len(bare) == 1:
        return re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", phrase) is not None
    return bool(bare) and bare in phrase


def number_accuracy(prediction: str, answer: str, precision: int) -> float:
    """MathVista: 1.0 when the last number of the answer rounds to the expected one.

    Args:
        prediction: what the model wrote.
        answer: the expected number.
        precision: digits behind the point that count; 0 for integers, whose fraction is cut off.
    """
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", prediction)
    said = numbers_in(boxed[-1] if boxed else prediction)
    if not said:
        return 0.0
    if precision == 0:
        return float(int(said[-1]) == int(float(answer)))
    return float(round(said[-1], precision) == round(float(answer), precision))


def list_accuracy(prediction: str, answer: str) -> float:
    """MathVista: 1.0 when the numbers of the last bracketed list are the expected ones; else 0.0."""
    lists = re.findall(r"\[[^\[\]]*\]", prediction)
    return float(bool(lists) and numbers_in(lists[-1]) == numbers_in(answer))
