"""Whether the expected text occurs in the answer (OCRBench).

Source: Liu et al. 2023, "OCRBench: On the Hidden Mystery of OCR in Large Multimodal Models".
"""

from collections.abc import Sequence


def contains_answer(prediction: str, answers: Sequence[str], *, formula: bool = False) -> float:
    """1.0 when one of ``answers`` is a part of ``prediction``, else 0.0.

    Args:
        prediction: what the model wrote.
        answers: accepted texts.
        formula: handwritten mathematics (its HME100k part): case counts and blanks do not. Elsewhere
            it is the other way round.
    """

    def bare(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if formula else text.lower()

    said = bare(prediction)
    return float(any(bare(answer) in said for answer in answers))
