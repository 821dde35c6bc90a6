"""Models of other kinds for comparison, through one small protocol."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .conditions import Condition
from .registry import Benchmark, Example
from .store import Prediction


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    text: str

    prompt_tokens: int | None = None
    """Tokens of the whole prompt, pictures included; None: not told."""

    visual_tokens: int | None = None
    """Tokens of the pictures; None: not told."""


class Chat(Protocol):
    """All that a model needs to be compared."""

    def ask(self, pictures: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> Reply:
        """The greedy answer to a question about pictures."""
        ...


class ExternalSubject:
    """A ``Chat`` that is asked one question at a time.

    Args:
        chat: the model.
        max_pixels: larger pictures are reduced to so many pixels, keeping their shape; None: never.
    """

    def __init__(self, chat: Chat, *, max_pixels: int | None = None) -> None:
        self._chat, self._max_pixels = chat, max_pixels

    def answer(
        self, benchmark: Benchmark, examples: Sequence[Example], conditions: Sequence[Condition]
    ) -> list[Prediction]:
        """Predictions of every example under every condition; these differ in the pictures' size only."""
        return [self._one(benchmark, example, condition) for example in examples for condition in conditions]

    def _one(self, benchmark: Benchmark, example: Example, condition: Condition) -> Prediction:
        assert condition.guided_by is None, condition
        pictures = [_within(picture, self._max_pixels) for picture in example.load_images()]
        started = time.perf_counter()
        reply = self._chat.ask(pictures, example.prompt, benchmark.max_new_tokens)
        seconds = time.perf_counter() - started
        text = reply.text.strip()
        return Prediction(
            uid=example.uid,
            condition=condition.key,
            prediction=text,
            answer=example.answers[0],
            score=benchmark.score(example, text),
            group=example.group,
            patches=0,
            visual_tokens=reply.visual_tokens,
            recall=None,
            seconds=seconds,
            prompt_tokens=reply.prompt_tokens,
        )


def _within(picture: Image.Image, max_pixels: int | None) -> Image.Image:
    """``picture`` in RGB with at most ``max_pixels`` pixels."""
    picture = picture.convert("RGB")
    width, height = picture.size
    if max_pixels is None or width * height <= max_pixels:
        return picture
    factor = (max_pixels / (width * height)) ** 0.5
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)
