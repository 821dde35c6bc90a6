"""Selection loss: do the score maps mark the cells of the box that the text speaks of?

Shape suffixes: L = looks, H/W = rows/columns of one map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distributed import sum_over_ranks, world_size

DICE_SCALE = 100.0
DICE_EPS = 1e-6
LOGIT_EPS = 1e-6


def binary_cross_entropy(probs_LHW: Tensor, target_LHW: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Mean BCE over all cells, fp32.

    Args:
        probs_LHW: probabilities in [0, 1].
        target_LHW: bool or 0/1.
        positive_weight: factor on the cells inside a box, which are a small minority; 1 is the published
        loss.
    """
    target = target_LHW.float()
    loss = F.binary_cross_entropy(probs_LHW.float(), target, reduction="none")
    if positive_weight != 1.0:
        loss = loss * (1.0 + (positive_weight - 1.0) * target)
    return loss.mean()


def dice(probs_LHW: Tensor, target_LHW: Tensor) -> Tensor:
    """Mean over looks of the dice loss with the sums divided by 100, as in the published trainer."""
    probs = probs_LHW.float().flatten(1)
    target = target_LHW.float().flatten(1)
    overlap = 2 * (probs * target).sum(1) / DICE_SCALE + DICE_EPS
    total = probs.sum(1) / DICE_SCALE + target.sum(1) / DICE_SCALE + DICE_EPS
    return (1 - overlap / total).mean()


def rank_loss(probs_LHW: Tensor, target_LHW: Tensor) -> Tensor:
    """Cross-entropy between the map, read as a distribution over cells, and an even one over the box.

    BCE and dice judge every cell by itself, so a map that marks all likely places is nearly as good as one
    that marks the right one; patches are chosen by the order of the scores, and this is the loss of that
    order. Not published. Mean over the looks with a box; zero, with a gradient path, when none has one.

    Args:
        probs_LHW: probabilities in [0, 1].
        target_LHW: bool or 0/1.
    """
    target = target_LHW.flatten(1).float()
    with torch.autocast(probs_LHW.device.type, enabled=False):
        log_share = torch.logit(probs_LHW.float().flatten(1), eps=LOGIT_EPS).log_softmax(dim=1)
    size = target.sum(1)
    loss = -(log_share * target).sum(1) / size.clamp(min=1)
    return loss.sum() / (size > 0).sum().clamp(min=1)


def selection_loss(
    probs: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    positive_weight: float = 1.0,
    dice_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """BCE and weighted dice, each averaged over the maps of a look (one per high-resolution scale, or just
    one).

    Looks without any positive cell carry no loss: without a box there is nothing to say about the map.

    Args:
        probs: per map ``(L, H, W)`` probabilities.
        targets: per map ``(L, H, W)``, bool; the first map tells which looks have a target.
        positive_weight: see :func:`binary_cross_entropy`.
        dice_weight: factor on dice; 1 is the published loss, 0 leaves BCE alone.

    Returns:
        Two scalars whose sum is the loss. Zeros that keep the graph if no look has a target.

    Raises:
        ValueError: the two lists do not fit each other.
    """
    if len(probs) != len(targets) or not probs:
        raise ValueError(f"expected one target per map, got {len(probs)} maps and {len(targets)} targets")
    for prob, target in zip(probs, targets, strict=True):
        if prob.shape != target.shape:
            raise ValueError(f"map {tuple(prob.shape)} and target {tuple(target.shape)} differ in shape")
    valid = torch.stack([target.flatten(1).any(1) for target in targets]).any(0)
    if not bool(valid.any()):
        # Zero, but with a gradient path: every rank must run the same backward under ZeRO-3.
        zero = sum(
            (prob.float().sum() * 0.0 for prob in probs), start=probs[0].new_zeros((), dtype=torch.float32)
        )
        return zero, zero
    pairs = [(prob[valid], target[valid]) for prob, target in zip(probs, targets, strict=True)]
    with torch.autocast(probs[0].device.type, enabled=False):
        bce = torch.stack(
            [binary_cross_entropy(p, t, positive_weight=positive_weight) for p, t in pairs]
        ).mean()
        dice_part = torch.stack([dice(p, t) for p, t in pairs]).mean()
    return bce, dice_weight * dice_part


def rank_share(counted_L: Tensor) -> float:
    """Factor on this rank's mean over its counted looks, so that the mean over ranks is that over all looks.

    Exactly 1 when every rank has as many.

    Args:
        counted_L: bool, the looks that carry loss.
    """
    mine = int(counted_L.sum())
    return mine * world_size() / max(sum_over_ranks(mine, counted_L.device), 1)


def maps_to_targets(maps_LHW: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Pixel maps as one bool target per grid: any positive coverage of a cell makes it positive."""
    maps = maps_LHW[:, None].float()
    return [F.interpolate(maps, size=grid, mode="area")[:, 0] > 0 for grid in grids]


def hit_rate(scores_LHW: Tensor, target_LHW: Tensor) -> Tensor:
    """Share of looks whose best-scored cell lies inside the target."""
    best = scores_LHW.flatten(1).argmax(1, keepdim=True)
    return target_LHW.flatten(1).gather(1, best).float().mean()
