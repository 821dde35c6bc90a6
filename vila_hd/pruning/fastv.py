"""FastV: after its first blocks, the language model drops visual tokens that the last word ignores.

Source: Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, section 4: ranked by the
attention of the prompt's last token in the last block that sees everything, mean over heads; positions stay.

Shape suffixes used in this file:
    B = rows, U = columns of the fused prompt, K = columns that stay, D = width, k = key/value heads,
    g = queries that share one, d = width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ..errors import VilaHDError
from ..fusion import Layout, Runs
from ..options import Pruning

LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Their blocks are called in one and the same way."""


class FastVCache(DynamicCache):
    """Keys and values of which the later blocks hold fewer columns than the first ones.

    Raises:
        VilaHDError: the language model's blocks are not known, are too few, or have sliding windows.
    """

    def __init__(self, model: PreTrainedModel, pruning: Pruning) -> None:
        config = model.config
        super().__init__(config=config)
        if config.model_type not in LANGUAGE_MODELS or any(
            type(one) is not DynamicLayer for one in self.layers
        ):
            raise VilaHDError(
                f"pruning {pruning}: not for a language model of type {config.model_type!r} or with sliding "
                f"windows, only for {', '.join(LANGUAGE_MODELS)}; use tome or visionzip"
            )
        if pruning.layer >= config.num_hidden_layers:
            raise VilaHDError(
                f"pruning {pruning}: the language model has {config.num_hidden_layers} blocks, so tokens can "
                f"be dropped after 1 to {config.num_hidden_layers - 1}: use fastv:{pruning.keep:g}:1"
            )
        # Any: its blocks and parts are those of the types above.
        self.model: Any = model
        self.pruning = pruning
        self.first = pruning.layer
        """Blocks that hold every column."""
        self.columns = 0
        """Columns of the prompt in them."""
        self.kept = torch.zeros(0)
        """``(B, K)``: of the prompt's columns in the later blocks, False at padding."""

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the rows, as beams want it."""
        super().batch_repeat_interleave(repeats)
        self.kept = self.kept.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self.kept = self.kept[indices]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows into another order."""
        super().reorder_cache(beam_idx)
        self.kept = self.kept.index_select(0, beam_idx.to(self.kept.device))

    @torch.no_grad()
    def read_prompt(
        self, embeds_BUD: Tensor, layout: Layout, runs: Runs, counts: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Take in a prompt but for its last column, which guides what stays.

        Args:
            embeds_BUD: the fused prompt.
            layout: its layout, padded on the left.
            runs: the runs of placeholders.
            counts: high-resolution tokens per look.

        Returns:
            Low- and high-resolution tokens that stay, per look.
        """
        mask, positions_BU = layout.mask.long(), layout.positions
        states_BUD = self._run(slice(0, self.first - 1), embeds_BUD, mask, positions_BU)
        query_B1D = states_BUD[:, -1:]
        states_BUD = self._run(slice(self.first - 1, self.first), states_BUD, mask, positions_BU)
        scores_BU = self._attention(query_B1D, layout.mask, positions_BU[:, -1:])
        keep_BU, stays = layout.mask.clone(), []
        looks = zip(runs.row.tolist(), runs.start.tolist(), runs.end.tolist(), counts, strict=True)
        for row, start, end, high in looks:
            low, first = end - start + 1, int(layout.column[row, start])
            columns = slice(first, first + low + high)
            best = scores_BU[row, columns].argsort(descending=True, stable=True)
            stay = torch.zeros_like(layout.mask[row, columns])
            stay[best[: self.pruning.num_kept(low + high)]] = True
            keep_BU[row, columns] = stay
            stays.append((int(stay[:low].sum()), int(stay[low:].sum())))
        # The last column is left to the token loop, which predicts by it.
        for layer in self.layers[: self.first]:
            layer.crop(-1)
        self.columns = mask.shape[1] - 1
        keep = keep_BU[:, :-1].long()
        column_BK = keep.argsort(dim=1, stable=True)[:, keep.shape[1] - int(keep.sum(1).max()) :]
        self.kept = keep.gather(1, column_BK)
        states_BKD = states_BUD.gather(1, column_BK[..., None].expand(-1, -1, states_BUD.shape[-1]))
        self._run(slice(self.first, None), states_BKD, self.kept, positions_BU.gather(1, column_BK))
        return tuple(low for low, _ in stays), tuple(high for _, high in stays)

    def go_on(self, embeds_BTD: Tensor, mask: Tensor | None, positions_BT: Tensor | None) -> Tensor:
        """States ``(B, T, D)`` of new tokens behind the prompt; ``mask`` is over everything so far, None: no
        row is padded."""
        rows, new, _ = embeds_BTD.shape
        if mask is None:
            mask = torch.ones(rows, self.get_seq_length() + new, dtype=torch.long, device=embeds_BTD.device)
        if positions_BT is None:
            positions_BT = (mask.cumsum(1) - 1)[:, -new:].clamp(min=0)
        states_BTD = self._run(slice(0, self.first), embeds_BTD, mask, positions_BT)
        kept = torch.cat([self.kept.to(mask), mask[:, self.columns :]], dim=1)
        return self.model.norm(self._run(slice(self.first, None), states_BTD, kept, positions_BT))

    def _run(self, which: slice, states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Run some blocks; ``mask`` is over all columns that they have seen."""
        model = self.model
        causal = create_causal_mask(model.config, states, mask, self, positions, layer_idx=which.start)
        rotary = model.rotary_emb(states, positions)
        for block in model.layers[which]:
            states = block(
                states,
                attention_mask=causal,
                position_ids=positions,
                past_key_values=self,
                use_cache=True,
                position_embeddings=rotary,
            )
        return states

    def _attention(self, query_B1D: Tensor, mask_BU: Tensor, position_B1: Tensor) -> Tensor:
        """``(B, U)``: what one token, given as it enters the last of the first blocks, attends to there."""
        block = self.model.layers[self.first - 1]
        key_BkUd, attention = self.layers[self.first - 1].keys, block.self_attn
        batch, heads, _, width = key_BkUd.shape
        query = attention.q_proj(block.input_layernorm(query_B1D)).view(batch, 1, -1, width)
        if hasattr(attention, "q_norm"):
            query = attention.q_norm(query)
        query = query.transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, *self.model.rotary_emb(query_B1D, position_B1))
        query_Bkgd = query.reshape(batch, heads, -1, width).float()
        logits_BkgU = query_Bkgd @ key_BkUd.float().transpose(2, 3) * attention.scaling
        logits_BkgU = logits_BkgU.masked_fill(~mask_BU[:, None, None], float("-inf"))
        return logits_BkgU.softmax(-1).mean((1, 2))
