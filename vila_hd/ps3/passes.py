"""Arranging chosen patches in batches and back. Pure functions.

Letters used for shapes in this file:
    L = looks, K = chosen patches of a look, M = chosen patches of all looks, G = sequences of a batch,
    n = tokens of a sequence, D = width.
"""

import torch
from torch import Tensor

from .selection import PatchSelection

_BATCH_TOKENS = 16384
"""High-resolution tokens that are encoded as one batch; more are encoded in turn, to bound memory."""

_CPU_BATCH_TOKENS = 4096
"""The same on a CPU outside of training: so many rows keep its cores busy, more only take memory."""


@torch.compiler.disable
def split_by(number: Tensor, count: int) -> list[Tensor]:
    """Return the positions at which ``number`` is 0, 1, ..., ``count - 1``."""
    sizes = torch.bincount(number, minlength=count).tolist()
    return list(number.argsort(stable=True).split(sizes))


@torch.compiler.disable  # its sizes depend on the choice
def pass_batches(selection: PatchSelection, picture: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the passes as batches: rows ``(G, n)`` of token numbers (-1: padding) and pictures ``(G,)``.

    Passes of equal length share a batch. Only looks with different counts in one pass make padding; outside
    of training, looks that would make much of it go into batches of their own.
    """
    mask = selection.mask
    number = torch.full_like(selection.index, -1)
    number[mask] = torch.arange(int(mask.sum()), device=mask.device)
    groups: dict[tuple[int, bool], list[tuple[Tensor, Tensor]]] = {}
    for step in range(1, int(selection.passes.max()) + 1 if selection.passes.numel() else 1):
        inside = selection.passes == step
        counts = inside.sum(dim=1)
        for looks in _alike(counts):
            sizes = counts[looks].tolist()
            longest = max(sizes)
            rows = number.new_full((len(looks), longest), -1)
            taken = torch.arange(longest, device=rows.device) < counts[looks, None]
            rows[taken] = number[looks][inside[looks]]
            groups.setdefault((longest, min(sizes) == longest), []).append((rows, picture[looks]))
    limit = _BATCH_TOKENS
    if mask.device.type == "cpu" and not torch.is_grad_enabled():
        limit = min(limit, _CPU_BATCH_TOKENS)
    batches = []
    for (longest, _), parts in groups.items():
        rows, owner = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        step = max(1, limit // longest)
        batches += list(zip(rows.split(step), owner.split(step), strict=True))
    return batches


def _alike(counts: Tensor) -> list[Tensor]:
    """Return the looks that have patches, in groups of similar counts (L,)."""
    looks = counts.nonzero()[:, 0]
    if torch.is_grad_enabled():  # under ZeRO-3 all ranks must run equally many batches
        return [looks]
    half_octave = (2 * counts[looks].log2()).long()
    return [looks[half_octave == kind] for kind in half_octave.unique()]


def to_looks(flat: Tensor, mask: Tensor) -> Tensor:
    """Return ``(L, K, D)`` from ``(M, D)``, zeros where ``mask`` is False."""
    if flat.shape[0] == mask.numel():
        return flat.view(*mask.shape, flat.shape[-1])
    return flat.new_zeros(*mask.shape, flat.shape[-1]).masked_scatter(mask[:, :, None], flat)
