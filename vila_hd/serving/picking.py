"""The next token of each row of a batch: each row with its own temperature, seed and grammar."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..json_answers import JsonLogitsProcessor
from .questions import ChosenToken, Sampling, TokenChance


class TokenPicker:
    """Picks the tokens of one answer."""

    def __init__(self, sampling: Sampling, tokenizer: Any, end_ids: Sequence[int]) -> None:
        """Begin an answer.

        Raises:
            VilaHDError: its JSON schema cannot be used.
        """
        self._sampling, self._tokenizer = sampling, tokenizer
        self._ids: list[int] = []
        self._random: torch.Generator | None = None
        if sampling.temperature > 0:
            # On the CPU, so that a seed means the same everywhere, and one per row, so that it means the same
            # whatever else is in the batch.
            self._random = torch.Generator()
            if sampling.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(sampling.seed)
        self._grammar: JsonLogitsProcessor | None = None
        if sampling.json_schema is not None:
            self._grammar = JsonLogitsProcessor(tokenizer, sampling.json_schema, end_ids)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is all that is wanted."""
        plain = self._random is None and self._grammar is None
        return plain and self._sampling.top_logprobs is None

    def pick(self, logits_V: Tensor) -> tuple[int, ChosenToken | None]:
        """The next token, and what is to be reported about it.

        Args:
            logits_V: ``(vocabulary,)`` float32.
        """
        logits_V = logits_V.cpu()
        allowed_V = logits_V
        if self._grammar is not None:
            # The grammar takes everything in its first call as the prompt: one id stands for it here.
            ids = torch.tensor([[0, *self._ids]])
            allowed_V = self._grammar(ids, logits_V[None])[0]
        token = int(allowed_V.argmax()) if self._random is None else self._draw(allowed_V, self._random)
        self._ids.append(token)
        return token, self._report(token, logits_V)

    def _draw(self, logits_V: Tensor, random: torch.Generator) -> int:
        chances, order = (logits_V / self._sampling.temperature).softmax(0).sort(descending=True, stable=True)
        # A token stays while those before it have not reached top_p, so the first one always does.
        kept = chances.cumsum(0) - chances < self._sampling.top_p
        kept[0] = True
        return int(order[torch.multinomial(chances * kept, 1, generator=random)])

    def _report(self, token: int, logits_V: Tensor) -> ChosenToken | None:
        count = self._sampling.top_logprobs
        if count is None:
            return None
        logprobs = logits_V.log_softmax(0)
        best = logprobs.topk(min(count, len(logprobs)))
        top = (self._chance(i, value) for i, value in zip(best.indices, best.values, strict=True))
        return ChosenToken(self._name(token), float(logprobs[token]), tuple(top))

    def _chance(self, token: Tensor, logprob: Tensor) -> TokenChance:
        return TokenChance(self._name(int(token)), float(logprob))

    def _name(self, token: int) -> str:
        name: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return name


def pick_tokens(logits_BV: Tensor, pickers: Sequence[TokenPicker]) -> list[tuple[int, ChosenToken | None]]:
    """The next token of every row; see ``TokenPicker.pick``."""
    best: list[int] = logits_BV.argmax(-1).tolist()
    return [
        (best[row], None) if picker.is_greedy else picker.pick(logits_BV[row])
        for row, picker in enumerate(pickers)
    ]
