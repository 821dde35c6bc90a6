"""Passes of the language model over rows of embeddings.

Shape suffixes used in this file:
    B = rows of the batch, T = columns of ``input_ids``, U = columns, N = questions, D = width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from .errors import VilaHDError
from .fusion import Packed
from .pruning.fastv import FastVCache


class LanguagePassesMixin:
    """Runs ``language_model``."""

    language_model: PreTrainedModel
    _takes_positions: bool
    """Whether it takes ``position_ids``."""

    def read_question(
        self,
        embeds_BTD: Tensor,
        mask_BT: Tensor,
        row_N: Tensor,
        column_N: Tensor,
        cache: Cache | None = None,
        *,
        packing: bool = False,
    ) -> tuple[Tensor, int]:
        """The language model's states ``(N, D)`` at tokens where questions end, and the number of columns
        that were run."""
        columns = int(column_N.max()) + 1
        mask_BT = mask_BT[:, :columns]
        if packing:
            # Of each row, only what comes before its last question.
            last_B = torch.full((len(mask_BT),), -1, device=mask_BT.device)
            last_B = last_B.scatter_reduce(0, row_N, column_N, "amax")
            mask_BT = mask_BT & (torch.arange(columns, device=mask_BT.device) <= last_B[:, None])
        use_cache = cache is not None
        outputs = self._run_rows(embeds_BTD[:, :columns], mask_BT, use_cache, cache, packing=packing)
        return outputs["last_hidden_state"][row_N, column_N], columns

    def _run_rows(
        self,
        embeds_BUD: Tensor,
        mask_BU: Tensor,
        use_cache: bool | None,
        cache: Cache | None = None,
        *,
        packing: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Outputs of the language model for rows whose padding ``mask_BU`` tells."""
        if not packing:
            positions_BU = (mask_BU.long().cumsum(1) - 1).clamp(min=0)
            return self.run_language_model(
                embeds_BUD, mask_BU.long(), positions_BU, cache, use_cache, **kwargs
            )
        if not self._takes_positions or cache is not None:
            raise VilaHDError(
                "packing needs a language model that takes position_ids, and no cache: use packing=False"
            )
        packed = Packed.from_mask(mask_BU)
        outputs = self.run_language_model(
            packed.pack(embeds_BUD), None, packed.positions, None, False, **kwargs
        )
        return {"last_hidden_state": packed.unpack(outputs["last_hidden_state"])}

    def run_language_model(
        self,
        embeds: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        use_cache: bool | None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Outputs of the language model by name."""
        if isinstance(cache, FastVCache):
            wanted = [name for name in ("output_attentions", "output_hidden_states") if kwargs.get(name)]
            if wanted:
                raise VilaHDError(
                    f"{wanted[0]}: blocks hold different tokens with {cache.pruning}; leave it out"
                )
            return {"last_hidden_state": cache.go_on(embeds, mask, positions), "past_key_values": cache}
        if self._takes_positions and positions is not None:
            kwargs["position_ids"] = positions
        outputs = self.language_model(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=use_cache, **kwargs
        )
        names = ("last_hidden_state", "past_key_values", "hidden_states", "attentions")
        return {name: getattr(outputs, name, None) for name in names}
