"""The vision transformer of the PS3 tower. Parameter names and shapes are the published ones.

Shape suffixes used in this file:
    B = sequences, N = tokens, D = width, M = chosen patches.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from .configuration_ps3 import PS3VisionConfig
from .embeddings import PatchProjection, positions_at
from .layers import AttentionPool, Block, KeyValue, RadioAdapterV1, RadioAdapterV2


class PatchEmbed(nn.Module):
    """Holder that gives the patch projection its published name."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = PatchProjection(width, patch)


class Trunk(nn.Module):
    """Patch projection, position table, blocks, last norm, attention pool."""

    def __init__(self, config: PS3VisionConfig) -> None:
        super().__init__()
        config.require_trunk_sizes()
        self.config = config
        width, depth, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
        assert depth is not None
        assert heads is not None
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
        side = config.position_grid_size or config.low_res_grid
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, width))
        self.patch_embed = PatchEmbed(width, config.patch_size)
        # Plain numbers: torch.linspace gives none when the model is built on the meta device.
        rate = float(config.drop_path or 0)
        drops = [rate * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, config.mlp_size, eps=config.layer_norm_eps, drop_path=drop) for drop in drops
        )
        self.norm: nn.Module = nn.Identity()
        if not config.radio or config.final_norm:
            self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        pool_width, pool_heads, pool_mlp = config.pool_sizes
        self.attn_pool = AttentionPool(pool_width, pool_heads, pool_mlp, eps=config.layer_norm_eps)
        self.siglip_proj: nn.Module = nn.Identity()
        if config.radio:
            adapter = RadioAdapterV1 if config.radio_adapter_mlp_version == "v1" else RadioAdapterV2
            self.siglip_proj = adapter(
                config.radio_adapter_mlp_input_dim or width,
                config.radio_adapter_mlp_hidden_dim or width,
                pool_width,
                config.radio_adapter_mlp_num_inner or 0,
            )

    def tokens(self, patches: Tensor, grid: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Return ``(..., M, D)``: projected patches plus the position table stretched to ``grid`` x ``grid``.

        Args:
            patches: ``(..., M, 3, P, P)``, normalised.
            grid: side of the square grid that the places refer to.
            rows: ``(M,)``.
            columns: ``(M,)``.
        """
        tokens = self.patch_embed.proj(patches.to(self.pos_embed.dtype))
        return tokens + positions_at(self.pos_embed, grid, rows, columns, crop=self.config.radio)

    def run(
        self,
        x: Tensor,
        *,
        blocks: int,
        keep: Collection[int] = (),
        cache: Sequence[KeyValue] | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        keep_cache: bool = False,
    ) -> tuple[Tensor, dict[int, Tensor], list[KeyValue]]:
        """Run the first ``blocks`` blocks. May overwrite ``x`` when no gradient needs it.

        Args:
            x: ``(B, N, D)``.
            blocks: how many.
            keep: numbers of the blocks whose outputs are wanted.
            cache: per block, keys and values to read in front of the own ones.
            index: ``(B,)`` which entry of the cache a sequence reads.
            mask: ``(B, N)`` bool; None: nothing is padded.
            keep_cache: return the own keys and values.

        Returns:
            The last output, the wanted outputs by block number, and keys and values per block.
        """
        implementation = self.config._attn_implementation or "sdpa"
        kept: dict[int, Tensor] = {}
        own: list[KeyValue] = []
        for i, block in enumerate(self.blocks[:blocks]):
            read = None if cache is None else cache[i]
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                assert self._gradient_checkpointing_func is not None
                x, key, value = self._gradient_checkpointing_func(
                    block.__call__, x, read, index, mask, implementation
                )
            else:
                x, key, value = block(x, read, index, mask, implementation)
            if keep_cache:
                # Copies: views would keep the queries in memory, too.
                own.append((key.contiguous(), value.contiguous()))
            del key, value  # views, too: they would stay through the next block
            if i in keep:
                overwritten = not torch.is_grad_enabled() and i + 1 < blocks
                kept[i] = x.clone() if overwritten else x
        return x, kept, own

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``(B, D_out)`` for block outputs ``(B, N, D)``; ``mask`` ``(B, N)`` chooses tokens.

        A sequence whose mask is all False is pooled over all its tokens.
        """
        if mask is not None:
            mask = mask | ~mask.any(dim=1, keepdim=True)
        return self.attn_pool(self.siglip_proj(self.norm(x)), mask)
