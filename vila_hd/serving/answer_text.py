"""Token by token to text that will not change any more, up to a text that ends the answer."""

from collections.abc import Sequence
from typing import Any

UNFINISHED = "�"
"""What a tokenizer writes for a character of which bytes are missing."""


class AnswerText:
    """The text of one answer while it is written."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        """Begin.

        Args:
            tokenizer: of transformers.
            stops: texts that end the answer and are no part of it.
        """
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._start = self._read = 0
        self._held = ""
        self.stopped = False
        """Whether one of ``stops`` came."""

    def add(self, token: int) -> str:
        """Text that is certain with one token more; often empty."""
        self._ids.append(token)
        # Decoded together with what came before: tokenizers treat the first token of a text differently.
        before = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        if text.endswith(UNFINISHED):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._certain(self._held + text[len(before) :])

    def finish(self) -> str:
        """What was held back, once no token comes any more."""
        before = self._decode(self._ids[self._start : self._read])
        rest = self._held + self._decode(self._ids[self._start :])[len(before) :]
        self._held = ""
        return "" if self.stopped else rest

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _certain(self, text: str) -> str:
        """``text`` without a stop and what follows it, and without an end that may become a stop."""
        found = [text.index(stop) for stop in self._stops if stop in text]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max(
            (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
