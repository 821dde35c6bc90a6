"""Next-token loss on the assistant's words, normalised so that accumulation and ranks do not change it."""

import torch
from torch import Tensor

from vila_hd.constants import IGNORE_INDEX


def count_supervised(labels: Tensor) -> int:
    """Number of label positions that carry loss. The first position of a sequence predicts nothing from
    before."""
    return int((labels[..., 1:] != IGNORE_INDEX).sum())


def rank_share(summed_over_global_count: Tensor, *, ranks: int) -> Tensor:
    """The loss of this rank whose mean over ranks (which the engine takes of gradients) is the global mean.

    Args:
        summed_over_global_count: sum of this rank's token losses, divided by the supervised tokens of the
        whole
            optimiser step over all ranks and micro-batches.
        ranks: number of ranks that are averaged.
    """
    return summed_over_global_count * ranks


def exact_match(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of sequences whose supervised tokens are all predicted, given the right tokens before them.

    Args:
        logits: ``(M, vocabulary)`` at the supervised positions, row by row.
        labels: ``(batch, tokens)``; rows without supervised token count as predicted.
    """
    with torch.no_grad():
        row, column = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        wrong = logits.argmax(-1) != labels[row, column + 1].to(logits.device)
        missed = torch.zeros(len(labels), device=logits.device).index_add_(
            0, row.to(logits.device), wrong.float()
        )
        return (missed == 0).float().mean()
