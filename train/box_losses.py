"""Boxes of batches: as regions for the tower, and as targets of score maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.ps3.regions import Regions

from .config import SelectionConfig, StageConfig
from .distributed import sum_over_ranks, world_size
from .objectives import selection
from .trainer import StepResult


def normalised_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Pixel boxes ``(n, 4)`` as shares of pictures of ``sizes`` ``(n, 2)`` (width, height); float64."""
    return boxes.double() / sizes.double().repeat(1, 2)


def shrink_boxes(boxes: Tensor, share: float) -> Tensor:
    """Boxes with the same centres and ``share`` of their sides."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * share
    return torch.cat([centre - half, centre + half], dim=1)


def selection_parts(
    scores: Tensor,
    regions: Regions,
    grids: Sequence[tuple[int, int]],
    config: SelectionConfig,
    *,
    over_ranks: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of score maps against boxes by name, and the share of best cells inside.

    Args:
        scores: ``(L, g, g)`` probabilities.
        regions: the boxes of each look.
        grids: rows and columns of every high-resolution scale.
        config: weights, and the grids to compare on.
        over_ranks: weigh every look with a box alike, whichever rank has it; every rank must call this.
    """
    cells = regions.on_grid(*scores.shape[1:])
    maps, targets = [scores], [cells]
    if config.resolution == "scales":
        targets = [regions.on_grid(*grid) for grid in grids]
        maps = [nn.functional.interpolate(scores[:, None].float(), size=grid)[:, 0] for grid in grids]
    bce, dice = selection.selection_loss(
        maps, targets, positive_weight=config.positive_weight, dice_weight=config.dice_weight
    )
    losses = {"bce": bce, "dice": dice}
    if config.rank_weight:
        losses["rank"] = config.rank_weight * selection.rank_loss(scores, cells)
    with_box = cells.flatten(1).any(1)
    if over_ranks:
        share = selection.rank_share(with_box)
        losses = {name: value * share for name, value in losses.items()}
    hits = (
        selection.hit_rate(scores[with_box], cells[with_box])
        if bool(with_box.any())
        else scores.new_zeros(())
    )
    return losses, hits.detach()


def first_look_of_pictures(look_index: Tensor) -> Tensor:
    """Positions of the first look at each picture that has one, pictures ascending."""
    order = torch.argsort(look_index, stable=True)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = look_index[order][1:] != look_index[order][:-1]
    return order[starts]


def box_looks(batch: dict[str, Any]) -> Tensor:
    """The look that each box of a batch belongs to; without ``box_look``, box i belongs to look i."""
    found: Tensor | None = batch.get("box_look")
    return torch.arange(len(batch["boxes"]), device=batch["boxes"].device) if found is None else found


def shares_of_pictures(batch: dict[str, Any]) -> Tensor:
    """The boxes of a batch as shares of their pictures."""
    return normalised_boxes(batch["boxes"], batch["picture_sizes"][batch["look_index"][box_looks(batch)]])


def given_boxes(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What a batch's looks are shown: boxes ``(n, 4)`` as shares of their pictures, and the look of each.

    Boxes of later turns are always among them, those of the first unless the look is the model's own choice.
    """
    owner = box_looks(batch)
    boxes = shares_of_pictures(batch) * ~batch["own_choice"][owner][:, None]
    if "turn_boxes" not in batch:
        return boxes, owner
    later = batch["turn_look"]
    sizes = batch["picture_sizes"][batch["look_index"][later]]
    return torch.cat([boxes, normalised_boxes(batch["turn_boxes"], sizes)]), torch.cat([owner, later])


def boxes_as_regions(boxes: Tensor, box_look: Tensor | None = None, looks: int | None = None) -> Regions:
    """Regions of looks; boxes without area are no region.

    Args:
        boxes: ``(n, 4)``.
        box_look: ``(n,)`` the look of each box; None: box i is that of look i.
        looks: number of looks; None: as many as boxes.
    """
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if box_look is None:
        box_look = torch.arange(len(boxes), device=boxes.device)
    number = len(boxes) if looks is None else looks
    return Regions.from_boxes([boxes[(box_look == look) & has_area] for look in range(number)])


def with_distractors(boxes: Tensor, look_index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The box of each look and those of the next ``count`` looks at the same picture, round and round.

    Args:
        boxes: ``(L, 4)``, one per look; no area: none.
        look_index: ``(L,)`` picture of each look.
        count: boxes to add to each look; fewer where its picture has fewer other looks.

    Returns:
        Boxes ``(n, 4)`` and the look of each, ``(n,)``.
    """
    owner, chosen = [], []
    for picture in look_index.unique().tolist():
        looks = (look_index == picture).nonzero()[:, 0]
        for step in range(min(count, len(looks) - 1) + 1):
            owner.append(looks)
            chosen.append(looks.roll(-step))
    return boxes[torch.cat(chosen)], torch.cat(owner)


def bottom_up_targets(batch: dict[str, Any], boxes: Tensor, config: SelectionConfig) -> Regions:
    """Per picture, what the map without text should mark: all objects, or the items of this batch.

    Args:
        batch: from a collator.
        boxes: ``(n, 4)`` its boxes as shares of their pictures.
        config: says which.
    """
    looks, sizes = batch["look_index"], batch["picture_sizes"]
    if "box_look" in batch:
        looks = looks[batch["box_look"]]
    if config.bottom_up_target == "all_boxes":
        pairs = zip(batch["all_boxes"], sizes, strict=True)
        return Regions.from_boxes(
            [normalised_boxes(entry, size.expand(len(entry), 2)) for entry, size in pairs]
        )
    has_area = boxes[:, 2] > boxes[:, 0]
    return Regions.from_boxes([boxes[(looks == i) & has_area] for i in range(len(sizes))])


def selection_losses(
    prompt_scores: Tensor | None,
    saliency_scores: Tensor | None,
    batch: dict[str, Any],
    boxes: Tensor,
    *,
    grids: Sequence[tuple[int, int]],
    config: SelectionConfig,
    over_ranks: bool = False,
) -> StepResult:
    """Weighted losses of the score maps that there are, and their parts.

    Args:
        prompt_scores: ``(L, g, g)`` steered by text, against the box of each look.
        saliency_scores: ``(L, g, g)`` without text, against the boxes of each picture, once per picture.
        batch: from a collator.
        boxes: ``(n, 4)`` its boxes as shares of their pictures.
        grids: rows and columns of every high-resolution scale.
        config: weights and targets.
        over_ranks: see :func:`selection_parts`.
    """
    parts = []
    if prompt_scores is not None:
        targets = boxes_as_regions(boxes, box_looks(batch), len(batch["look_index"]))
        part = selection_parts(prompt_scores, targets, grids, config, over_ranks=over_ranks)
        parts.append(("top_down", config.top_down_weight, part))
    if saliency_scores is not None:
        first = first_look_of_pictures(batch["look_index"])
        # Pictures without a look have no map.
        target = bottom_up_targets(batch, boxes, config).subset(batch["look_index"][first].tolist())
        part = selection_parts(saliency_scores[first], target, grids, config, over_ranks=over_ranks)
        parts.append(("bottom_up", config.bottom_up_weight, part))
    loss = boxes.new_zeros((), dtype=torch.float32)
    metrics: dict[str, Tensor] = {}
    for name, weight, (losses, hits) in parts:
        loss = loss + weight * sum(losses.values())
        metrics |= {f"{name}_{kind}": value.detach() for kind, value in losses.items()}
        metrics[f"{name}_hit"] = hits
    return StepResult(loss, metrics)


class BoxShares:
    """Shares of micro-batches in the looks with boxes of a whole optimiser step.

    Rows of data files bring boxes or none, so a mean over micro-batches would weigh their looks unequally.
    """

    def __init__(self, config: StageConfig) -> None:
        """Give shares only where rows come from ``data.sources``; rendered scenes count evenly."""
        self.even = not config.data.sources
        self.total = 0.0

    def begin(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count the looks of an optimiser step on all ranks."""
        if not self.even:
            self.total = sum_over_ranks(
                sum(self._count(batch) for batch in batches), batches[0]["labels"].device
            )

    def of(self, batch: dict[str, Any], steps: int) -> float:
        """Factor on the mean over the looks of ``batch``.

        The mean over ranks of the sum over ``steps`` micro-batches then is the mean over the whole step.
        """
        if self.even:
            return 1.0 / steps
        return self._count(batch) * world_size() / max(self.total, 1.0)

    def _count(self, batch: dict[str, Any]) -> int:
        return len(torch.unique(batch["box_look"])) if "box_look" in batch else 0
