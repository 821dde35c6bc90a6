"""Answers that are JSON: a logits processor that leaves a model only tokens that keep the text valid.

The grammar work is llguidance's (extra ``json``). Answers come out on one line, with ``", "`` and ``": "``
between values, so that a model cannot go on with white space for ever.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .errors import VilaHDError
from .utils.imports import import_optional
from .utils.text import one_line

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""Schema of any JSON object."""

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class JsonLogitsProcessor(LogitsProcessor):
    """Masks every token that would make an answer no beginning of a JSON value of a schema.

    For one call of ``generate``, for any number of rows; not for beams, which reorder rows.
    """

    def __init__(self, tokenizer: Any, schema: Mapping[str, Any], stop_ids: Sequence[int]) -> None:
        """Compile the grammar.

        Args:
            tokenizer: a fast tokenizer of transformers.
            schema: JSON schema of the answer.
            stop_ids: ids that end an answer; allowed when the value is complete.

        Raises:
            VilaHDError: llguidance is missing, the schema is none or uses what it does not support.
        """
        guidance = import_optional("llguidance", extra="json", purpose="answers in JSON")
        if not stop_ids:
            raise VilaHDError("answers in JSON need a token that ends an answer: set eos_token_id")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise VilaHDError(f"answers in JSON need a fast tokenizer, not a {type(tokenizer).__name__}")
        hf = import_optional("llguidance.hf", extra="json", purpose="answers in JSON")
        try:
            self._tokenizer = hf.from_tokenizer(tokenizer, eos_token=list(stop_ids))
        except ValueError as error:
            raise VilaHDError(
                f"answers in JSON are not possible with this model's tokenizer ({_line(error)}); leave the "
                "format out"
            ) from error
        self._matcher_class = guidance.LLMatcher
        try:
            self._grammar = guidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_LAYOUT)
        except (ValueError, TypeError) as error:
            raise VilaHDError(f"JSON schema {str(schema)[:80]}: {_line(error)}; give an object") from error
        if problem := guidance.LLMatcher.validate_grammar(self._grammar, self._tokenizer):
            raise VilaHDError(f"JSON schema {str(schema)[:80]}: {_line(problem)}; change the schema")
        self._rows: list[Any] = []
        self._columns = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``(rows, vocabulary)`` scores, minus infinity where a token is not allowed.

        Args:
            input_ids: ``(rows, tokens)`` so far; everything in the first call is the prompt.
            scores: ``(rows, vocabulary)``.
        """
        if not self._rows:
            self._rows = [self._matcher_class(self._tokenizer, self._grammar) for _ in input_ids]
        else:
            for matcher, new in zip(self._rows, input_ids[:, self._columns :].tolist(), strict=True):
                if not matcher.is_stopped():  # a finished row goes on with padding
                    matcher.consume_tokens(new)
        self._columns = input_ids.shape[1]
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for row, matcher in enumerate(self._rows):
            if matcher.is_error():
                raise VilaHDError(f"answer in JSON: {_line(matcher.get_error())}")
            mask = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) > 0
            size = min(len(mask), scores.shape[1])
            allowed[row, :size] = mask[:size]
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))


def _line(text: object) -> str:
    return one_line(text)[:160]
