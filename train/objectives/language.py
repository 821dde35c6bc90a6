"""Next-token loss on the assistant's words, normalised so that accumulation and ranks do not change it."""

import torch
from torch import Tensor

from vila_hd.constants import IGNORE_INDEX


def count_supervised(labels: Tensor) -> int:
    """Number of label positions that carry loss. The first position of a sequence predicts nothing from
    before."""
    return int((labels[..., 1:] != IGNORE_INDEX).sum())


def rescale_to_global_tokens(
    loss: Tensor, *, local_tokens: int, global_tokens: Tensor | int, ranks: int
) -> Tensor:
    """Turn a mean over this rank's tokens into this rank's share of the mean over all ranks' tokens.

    The mean over ranks (which the engine takes of the gradients) of the returned value is the sum of all
    token losses divided by ``global_tokens``.

    Args:
        loss: mean over ``local_tokens``; its value is ignored if there are none.
        local_tokens: supervised tokens behind ``loss``.
        global_tokens: supervised tokens of the whole optimiser step, over all ranks and micro-batches.
        ranks: number of ranks whose gradients are averaged.
    """
    if local_tokens == 0:
        # nan * 0 is nan: replace first, so that an empty micro-batch adds an exact zero with a gradient path.
        return torch.nan_to_num(loss) * 0.0
    return loss * (local_tokens * ranks / global_tokens)


def answer_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of sequences whose supervised tokens are all predicted (teacher-forced exact match).

    Args:
        logits: ``(batch, length, vocabulary)``.
        labels: ``(batch, length)``; sequences without supervised token count as right.
    """
    with torch.no_grad():
        right = (logits[:, :-1].argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == IGNORE_INDEX)
        return right.all(1).float().mean()
