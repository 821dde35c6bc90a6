"""Attention in bfloat16 on a CPU as matrix products: faster than torch's fused kernel at a tower's sizes.

Shape suffixes used in this file:
    B = sequences, H = heads, N = queries, M = keys, D = channels of a head.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1 << 24
"""Logits that are in memory at a time (32 MB); fewer would mean more steps, at which threads wait."""

_LEAST = 1 << 19
"""Fewer logits than this are left to the fused kernel: many small products cost more than they save."""

_LIMIT = 16.0
"""Largest logit that may be rounded to bfloat16: up to here its weight changes by 3 % at most."""


def is_faster(query: Tensor, *keys: Tensor) -> bool:
    """Whether :func:`attend_bf16` should be used for these queries and keys.

    Args:
        query: ``(B, H, N, D)``.
        keys: ``(B, H, M, D)``, the keys or parts of them.
    """
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and not torch.compiler.is_compiling()  # the branch on the range of the logits would break the graph
        and not (torch.is_grad_enabled() and any(part.requires_grad for part in (query, *keys)))
        and query.shape[1] * query.shape[2] * sum(part.shape[2] for part in keys) >= _LEAST
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def attend_bf16(
    query: Tensor, key: Tensor, value: Tensor, before: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return softmax(query key^T / sqrt(D)) value: ``(B, H, N, D)``, in memory ``(B, N, H, D)``.

    There are no gradients. The logits are rounded to bfloat16, which the fused kernel does not do. Keys are
    centred first: that leaves the softmax as it is and makes the logits, and so the rounding, smaller. Parts
    with larger logits than is safe are left to the fused kernel.

    Args:
        query: ``(B, H, N, D)`` bfloat16.
        key: ``(B, H, M, D)``.
        value: ``(B, H, M, D)``.
        before: keys and values that stand in front of these; joined a few heads at a time, to save memory.
    """
    batch, heads, length, width = query.shape
    keys = key.shape[2] + (0 if before is None else before[0].shape[2])
    out = query.new_empty(batch, length, heads, width).transpose(1, 2)
    group = min(heads, max(1, _CHUNK // (length * keys)))
    rows = -(-length // -(-length * group * keys // _CHUNK))  # equal steps, not a small one at the end
    space = query.new_empty(group * rows * keys)
    ones = value.new_ones(group, keys, 1)
    for b in range(batch):
        for h in range(0, heads, group):
            part = slice(h, h + group)
            some_keys, some_values = key[b, part], value[b, part]
            if before is not None:
                some_keys = torch.cat([before[0][b, part], some_keys], dim=1)
                some_values = torch.cat([before[1][b, part], some_values], dim=1)
            centred = (some_keys - some_keys.mean(dim=1, keepdim=True)).contiguous()
            # A column of ones sums up the weights inside the same matrix product.
            summing = torch.cat([some_values, ones[: len(centred)]], dim=2)
            for n in range(0, length, rows):
                some = query[b, part, n : n + rows]
                into = out[b, part, n : n + rows]
                weights = _weights(some, centred, space)
                if weights is None:
                    into.copy_(F.scaled_dot_product_attention(some, some_keys, some_values))
                else:
                    summed = torch.bmm(weights, summing)
                    torch.div(summed[..., :width], summed[..., width:], out=into)
    return out


def _weights(query_HND: Tensor, key_HMD: Tensor, space: Tensor) -> Tensor | None:
    """``(H, N, M)`` in ``space``: exponentials of the logits, not normalised; None: a logit is too large."""
    shape = (query_HND.shape[0], query_HND.shape[1], key_HMD.shape[1])
    logits = space[: math.prod(shape)].view(shape)
    # To the base of 2, whose powers are cheaper than those of e.
    scale = math.log2(math.e) * query_HND.shape[-1] ** -0.5
    torch.baddbmm(logits, query_HND, key_HMD.transpose(1, 2), beta=0, alpha=scale, out=logits)
    # Over centred keys the logits of a query average zero, so none needs to be shifted up.
    return logits.exp2_() if bool(logits.max() <= _LIMIT * math.log2(math.e)) else None
