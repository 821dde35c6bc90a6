"""Blocks of the PS3 trunk and of its selector. Parameter names are those of the published tensors.

Shape suffixes used in this file:
    B = sequences, N = tokens of a sequence, D = width, h = heads, d = width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import VilaHDError
from .cpu_attention import attend_bf16, is_faster
from .embeddings import PatchProjection

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one block, each ``(B, h, N, d)``."""

_MATMUL_MAX_KEYS = 1024
"""On a CPU the backward pass of the fused attention is slower than two plain matrix products up to about
this many keys (measured with one thread, bf16 autocast, 64 sequences)."""

_CPU_HIDDEN = 1 << 22
"""Values inside an MLP that are in memory at a time on a CPU outside of training; more rows than that keep
its cores no busier."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    implementation: str,
    *,
    before: KeyValue | None = None,
) -> Tensor:
    """Return softmax attention ``(B, h, N, d)``.

    Args:
        query: ``(B, h, N, d)``.
        key: ``(B, h, M, d)``.
        value: ``(B, h, M, d)``.
        mask: ``(B, M)`` bool, True for keys that may be read; None: all. Pass None whenever nothing is
            padded.
        implementation: ``sdpa``, ``eager`` or ``flash_attention_2`` (which leaves masked calls to ``sdpa``).
        before: keys and values that stand in front of ``key`` and ``value`` and are always read.
    """
    keys = (key,) if before is None else (before[0], key)
    if mask is None and implementation == "sdpa" and is_faster(query, *keys):
        return attend_bf16(query, key, value, before)
    if before is not None:
        key, value = torch.cat(keys, dim=2), torch.cat([before[1], value], dim=2)
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), before[0].shape[2]), mask], dim=1)
    if implementation == "flash_attention_2" and mask is None:
        return _flash(query, key, value)
    plain = implementation == "eager" or (
        query.device.type == "cpu" and query.requires_grad and key.shape[2] <= _MATMUL_MAX_KEYS
    )
    bias = None if mask is None else mask[:, None, None, :]
    if not plain:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if bias is not None:
        logits = logits.masked_fill(~bias, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1).to(value.dtype) @ value


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise VilaHDError(
            "attn_implementation='flash_attention_2' needs flash-attn: pip install 'vila-hd[flash]', "
            "or use attn_implementation='sdpa'"
        ) from error
    out: Tensor = flash_attn_func(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def add_(residual: Tensor, update: Tensor) -> Tensor:
    """Return ``residual + update``, reusing the memory of ``residual`` when no gradient needs it."""
    return residual + update if torch.is_grad_enabled() else residual.add_(update)


def gelu_(x: Tensor) -> Tensor:
    """Return the exact GELU, reusing the memory of ``x`` when no gradient needs it."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class Attention(nn.Module):
    """Self-attention that can also read keys and values computed earlier."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``(B, h, N, d)`` of ``(B, N, D)``."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(
        self,
        x: Tensor,
        cache: KeyValue | None,
        index: Tensor | None,
        mask: Tensor | None,
        implementation: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the update ``(B, N, D)`` and this sequence's own keys and values (views).

        Args:
            x: ``(B, N, D)``.
            cache: keys and values of another sequence, read in front of the own ones.
            index: ``(B,)`` which entry of the cache each sequence reads; None: the same position.
            mask: ``(B, N)`` bool over the own keys; None: nothing is padded.
            implementation: see ``attend``.
        """
        batch, length, width = x.shape
        query, own_key, own_value = self.project(x)
        if cache is not None and index is not None:
            cache = cache[0][index], cache[1][index]
        out = attend(query, own_key, own_value, mask, implementation, before=cache)
        return self.proj(out.transpose(1, 2).reshape(batch, length, width)), own_key, own_value


class Mlp(nn.Module):
    """Linear, exact GELU, optional LayerNorm, Linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None, *, norm: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm: nn.LayerNorm | None = nn.LayerNorm(hidden) if norm else None
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def hidden(self, x: Tensor) -> Tensor:
        """Return what enters the last layer."""
        x = gelu_(self.fc1(x))
        return x if self.norm is None else self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out)`` for ``(..., width)``."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.fc2(self.hidden(x))
        flat = x.flatten(0, -2)
        parts = flat.chunk(-(-len(flat) * self.fc1.out_features // _CPU_HIDDEN) or 1)
        return torch.cat([self.fc2(self.hidden(part)) for part in parts]).unflatten(0, x.shape[:-1])


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp: int, *, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp)
        self.drop_path = drop_path

    def forward(
        self,
        x: Tensor,
        cache: KeyValue | None,
        index: Tensor | None,
        mask: Tensor | None,
        implementation: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new tokens, and the block's own keys and values. May overwrite ``x`` when no gradient
        needs it.

        The arguments are those of ``Attention.forward``.
        """
        update, key, value = self.attn(self.norm1(x), cache, index, mask, implementation)
        x = add_(x, self._drop(update))
        return add_(x, self._drop(self.mlp(self.norm2(x)))), key, value

    def _drop(self, update: Tensor) -> Tensor:
        """Stochastic depth: drop the update of some sequences while training."""
        if not self.training or not self.drop_path:
            return update
        keep = 1.0 - self.drop_path
        chosen = torch.rand(update.shape[0], 1, 1, device=update.device) < keep
        return update * (chosen.to(update.dtype) / keep)


class AttentionPool(nn.Module):
    """One learned query reads all tokens; then an MLP with a residual."""

    def __init__(self, width: int, heads: int, mlp: int, *, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``(B, D)`` for tokens ``(B, N, D)``; ``mask`` ``(B, N)`` bool chooses the tokens that
        are read."""
        batch, length, width = x.shape
        query = self.q(self.latent).view(1, 1, self.heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
        key, value = self.kv(x).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = attend(query, key, value, mask, "sdpa")
        pooled = self.proj(out.transpose(1, 2).reshape(batch, width))
        return pooled + self.mlp(self.norm(pooled))


class RadioAdapterV1(nn.Module):
    """C-RADIO's first adapter from its own to SigLIP's feature space."""

    def __init__(self, width: int, hidden: int, out: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        layers: list[nn.Module] = []
        for _ in range(inner):
            layers += [nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        self.inner = nn.Sequential(*layers)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out)`` for ``(..., width)``."""
        return self.fc2(self.inner(F.relu(self.norm(self.fc1(x)))))


class RadioAdapterV2(nn.Module):
    """C-RADIO's residual adapter from its own to SigLIP's feature space."""

    def __init__(self, width: int, hidden: int, out: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden)) for _ in range(inner)
        )
        self.final = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out)`` for ``(..., width)``."""
        x = self.fc1(x)
        for block in self.blocks:
            x = x + block(x)
        return self.final(x)


class ConvNeXtBlock(nn.Module):
    """7 x 7 depthwise convolution, LayerNorm, MLP, layer scale (named ``weight`` as published), residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, rows, columns, D)`` for the same."""
        update = self.conv_dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(self.norm(update)) * self.weight


class DetailBranch(nn.Module):
    """Convolutional features of a medium-resolution view, for the selector."""

    def __init__(self, width: int, out: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.stem = nn.ModuleList([PatchProjection(width, kernel), nn.LayerNorm(width, eps=1e-6)])
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(depth))
        self.out_proj = nn.Conv2d(width, out, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Return ``(B, rows, columns, out)`` for patches ``(B, rows, columns, 3, kernel, kernel)``."""
        x = self.stem[1](self.stem[0](patches))
        for block in self.blocks:
            x = block(x)
        return F.linear(x, self.out_proj.weight.flatten(1), self.out_proj.bias)
