"""Captions as the published training prepared them: openers removed, sentences masked. Pure functions."""

import re

import numpy as np

_OPENERS = re.compile(
    r"^\s*(?:the|this)\s+(?:(?:first|second|cropped|provided|given)\s+)*(?:image|picture|photo|crop|region|view)"
    r"\s+(?:is|shows|depicts|displays|features|presents)\s+"
    r"(?:(?:a|an|the)\s+(?:close-?up(?:\s+view)?|cropped\s+(?:view|image|section|version|part|portion)|crop)"
    r"\s+(?:of|from|showing)\s+)?",
    re.IGNORECASE,
)
"""How captions of models that were shown a picture and a crop begin."""

_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_MASK_STARTS = 3
_NEGATIONS = {"no", "not", "isn", "aren", "without", "nor", "any"}


def split_sentences(text: str) -> list[str]:
    """Sentences of ``text``: it is split at white space after ``.``, ``!`` or ``?``."""
    return [part for part in _SENTENCES.split(text.strip()) if part]


def clean_caption(text: str) -> str:
    """``text`` without its opener ("The second image is a close-up of ...") and without a last sentence that
    only says that no text is visible.

    Differs from the reference, whose list of two literal openers leaves most of them in.
    """
    stripped = _OPENERS.sub("", text.strip(), count=1)
    sentences = split_sentences(stripped)
    words = set(re.findall(r"[a-z]+", sentences[-1].lower())) if len(sentences) > 1 else set()
    if {"text", "visible"} <= words and words & _NEGATIONS:
        sentences = sentences[:-1]
    return " ".join(sentences)


def mask_sentences(text: str, rng: np.random.Generator) -> str:
    """A random run of sentences that begins with one of the first three."""
    sentences = split_sentences(text)
    if len(sentences) < 2:
        return text
    start = int(rng.integers(0, min(len(sentences), _MASK_STARTS)))
    length = int(rng.integers(1, len(sentences) - start + 1))
    return " ".join(sentences[start : start + length])
