"""Answers that are written together: one step of the language model gives every row its next token.

Rows may join and leave between any two steps (continuous batching). Keys and values are padded on the left;
positions do not count the padding, so a row gets the same answer alone and in company. The continuous
batching of transformers (``generate_batch``) starts from token ids; prompts here end with keys and values
that pictures were read into.

Shape suffixes used in this file:
    B = rows, U = columns of the longest row, V = vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from ..modeling_vila_hd import VilaHDForConditionalGeneration


@dataclass
class Filled:
    """Prompts that are read up to their last token."""

    cache: Cache
    """Keys and values of ``U - 1`` columns."""

    mask: Tensor
    """``(B, U)`` int64, 0 at padding."""

    last: Tensor
    """``(B, 1)``: the token that is not in the cache yet."""


class RunningBatch:
    """The rows that are being written, with their keys and values."""

    def __init__(self, model: VilaHDForConditionalGeneration) -> None:
        self._model = model
        self._filled: Filled | None = None

    def __len__(self) -> int:
        return 0 if self._filled is None else len(self._filled.mask)

    def can_join(self) -> bool:
        """Whether rows may be added now. Sliding windows and states cannot be padded afterwards: there, a new
        batch begins when the last one has ended."""
        if self._filled is None:
            return True
        return all(type(layer) is DynamicLayer for layer in self._filled.cache.layers)

    def join(self, new: Filled) -> None:
        """Add rows behind those that are there."""
        old, self._filled = self._filled, new
        if old is None:
            return
        columns = max(old.mask.shape[1], new.mask.shape[1])
        for ours, theirs in zip(new.cache.layers, old.cache.layers, strict=True):
            ours.keys = torch.cat([_widen(part.keys, columns - 1, -2) for part in (theirs, ours)])
            ours.values = torch.cat([_widen(part.values, columns - 1, -2) for part in (theirs, ours)])
        new.mask = torch.cat([_widen(part.mask, columns, -1) for part in (old, new)])
        new.last = torch.cat([old.last, new.last])

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows, and columns that are padding in all that stay."""
        if self._filled is None or len(rows) == len(self):
            return
        if not rows:
            self._filled = None
            return
        filled = self._filled
        index = torch.tensor(rows, device=filled.mask.device)
        filled.cache.batch_select_indices(index)
        filled.last, mask_BU = filled.last[index], filled.mask[index]
        if self.can_join():
            first = int(mask_BU.any(0).long().argmax())
            mask_BU = mask_BU[:, first:].contiguous()
            for layer in filled.cache.layers:
                layer.keys = layer.keys[:, :, first:].contiguous()
                layer.values = layer.values[:, :, first:].contiguous()
        filled.mask = mask_BU

    def step(self) -> Tensor:
        """``(B, V)`` float32 on the model's device: what each row goes on with. Call ``advance`` next."""
        assert self._filled is not None
        filled = self._filled
        outputs = self._model(
            input_ids=filled.last,
            attention_mask=filled.mask,
            position_ids=filled.mask.sum(1, keepdim=True) - 1,
            past_key_values=filled.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = outputs.logits[:, -1].float()
        # A picture is nothing that a model can write.
        logits_BV[:, self._model.config.image_token_id] = float("-inf")
        return logits_BV

    def advance(self, tokens: list[int]) -> None:
        """Append one token to every row."""
        assert self._filled is not None
        filled = self._filled
        filled.last = torch.tensor(tokens, device=filled.mask.device)[:, None]
        filled.mask = F.pad(filled.mask, (0, 1), value=1)


def _widen(value: Tensor, columns: int, dim: int) -> Tensor:
    """``value`` with zeros on the left of ``dim``."""
    missing = columns - value.shape[dim]
    return F.pad(value, (missing, 0) if dim == -1 else (0, 0, missing, 0)) if missing else value
