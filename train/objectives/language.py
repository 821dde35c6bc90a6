"""Next-token loss on the assistant's words, normalised so that accumulation and ranks do not change it."""

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
