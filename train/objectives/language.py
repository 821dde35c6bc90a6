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
    """Share of answers whose tokens are all predicted, given the right tokens before them.

    Args:
        logits: ``(M, vocabulary)`` at the supervised positions, row by row.
        labels: ``(batch, tokens)``; supervised positions without a gap are one answer. 1 without any.
    """
    with torch.no_grad():
        row, column = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        if not len(row):
            return logits.new_ones(())
        wrong = logits.argmax(-1) != labels[row, column + 1].to(logits.device)
        begins = torch.ones_like(row)
        begins[1:] = ((row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)).long()
        answer = begins.cumsum(0) - 1
        missed = torch.zeros(int(answer[-1]) + 1, device=logits.device)
        missed.index_add_(0, answer.to(logits.device), wrong.float())
        return (missed == 0).float().mean()
