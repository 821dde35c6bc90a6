"""The stages: batch -> model -> objectives. Everything that is computed lives in ``train.objectives``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.options import HighResOptions
from vila_hd.projector import complete_cells
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.resampling import grid_of, scale_size
from vila_hd.ps3.selection import PatchSelection

from .config import LookConfig, SelectionConfig, StageConfig
from .data.account import Account
from .distributed import sum_over_ranks, world_size
from .objectives import contrastive, language, selection
from .trainer import Step, StepResult

MAX_LOGIT_SCALE = math.log(100.0)
"""Logarithm of the largest factor on similarities, as in the published training."""


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


def unwrap(model: nn.Module) -> Any:
    """The model inside the engine."""
    return getattr(model, "module", model)


def look_options(config: LookConfig, vision: PS3VisionConfig) -> HighResOptions:
    """How closely to look while training, independent of the budget that the model answers with."""
    split = config.per_scale or vision.max_select_num_each_scale
    patches = vision.max_select_num if split is None else sum(split)
    return HighResOptions(
        budget=config.passes * patches, per_scale=config.per_scale, guided_by=config.guided_by
    )


def without_global_looks(
    batch: dict[str, Any], boxes: Tensor, close: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Batch and normalised boxes of the looks ``close``; whole pictures have no selection loss.

    When all looks are of whole pictures, one is in ``close`` all the same; it has no target.
    """
    only_whole = bool(batch["is_global"][close].all())
    all_boxes = [entry[:0] if only_whole else entry for entry in batch["all_boxes"]]
    close = close.to(batch["look_index"].device)
    kept = {name: batch[name][close] for name in ("look_index", "boxes")}
    return {**batch, **kept, "all_boxes": all_boxes}, boxes[close]


class PretrainStep:
    """``ps3_pretrain``: regions against captions, score maps against boxes. One model call for everything."""

    normalised_over_accumulation = False

    def __init__(self, config: StageConfig) -> None:
        """Take the losses' weights and the looks' options from ``config``."""
        self.config = config

    def begin(self, batches: Sequence[dict[str, Any]]) -> None:
        """Nothing is normalised over the whole step."""

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config, looks = self.config, batch["look_index"]
        boxes = normalised_boxes(batch["boxes"], batch["picture_sizes"][looks])
        output = model(
            batch["pixel_values"],
            batch["input_ids"],
            options=look_options(config.looks, unwrap(model).config.vision_config),
            regions=boxes_as_regions(shrink_boxes(boxes, config.looks.forced_share)),
            pool_regions=boxes_as_regions(shrink_boxes(boxes, config.looks.pooled_share)),
            look_index=looks,
            text_index=batch["text_index"],
            is_global=batch["is_global"],
            saliency=config.selection.bottom_up_weight > 0,
        )
        text = output.text_embeds[batch["text_index"]]
        pairs = contrastive.Pairs(
            output.image_embeds, text, batch["picture_ids"][looks], batch["caption_ids"]
        )
        scale = output.logit_scale.clamp(0.0, MAX_LOGIT_SCALE)
        swapped = batch["swapped_index"]
        loss = contrastive.sigmoid_contrastive_loss(
            pairs,
            scale,
            output.logit_bias,
            intra_image_negatives=config.contrastive.intra_image_negatives,
            extra=contrastive.ExtraNegatives(output.text_embeds, swapped) if swapped.shape[1] else None,
        )
        metrics = {
            "contrastive": loss.detach(),
            "retrieval": contrastive.retrieval_rate(pairs),
            "logit_scale": scale.detach().exp().mean(),
            "logit_bias": output.logit_bias.detach().mean(),
        }
        assert output.vision is not None
        assert output.vision.selection is not None
        if output.close_looks is not None:
            batch, boxes = without_global_looks(batch, boxes, output.close_looks)
        maps = selection_losses(
            output.prompt_scores,
            output.saliency_scores,
            batch,
            boxes,
            grids=output.vision.selection.grids[0],
            config=config.selection,
            over_ranks=True,
        )
        return StepResult(loss + maps.loss, metrics | maps.metrics)


def question_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the multi-modal model reads of a batch of questions."""
    names = ("input_ids", "attention_mask", "pixel_values", "look_index")
    positions = [name for name in ("prompt_positions", "look_positions") if name in batch]
    return {name: batch[name] for name in (*names, *positions)}


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


class LanguageStep:
    """``align``, ``pretrain`` and ``sft``: predict the answer; boxes are given to the tower except for looks
    of its own choice."""

    normalised_over_accumulation = True

    def __init__(self, config: StageConfig) -> None:
        """Take the looks' options from ``config``."""
        self.config = config
        self.shares = BoxShares(config)

    def begin(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count what the losses of the step are divided by."""
        self.shares.begin(batches)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config = self.config
        boxes, box_look = shares_of_pictures(batch), box_looks(batch)
        given = shrink_boxes(boxes, config.looks.forced_share) * ~batch["own_choice"][box_look][:, None]
        output = model(
            **question_inputs(batch),
            labels=batch["labels"],
            high_res=look_options(config.looks, unwrap(model).config.vision_config),
            regions=boxes_as_regions(given, box_look, len(batch["look_index"])),
            num_items_in_batch=num_items,
            prompt_gradient=config.selection.prompt_gradient,
            packing=config.data.packing,
        )
        loss = language.rank_share(output.loss, ranks=world_size())
        steps = config.accumulation_steps(world_size())
        metrics = {
            "language": loss.detach() * steps,
            "exact_match": language.exact_match(output.supervised_logits, batch["labels"]),
            "high_res_patches": mean_patches(output.looks),
            "visual_tokens": mean_visual_tokens(output.looks, unwrap(model).config),
        }
        if config.looks.guided_by == "prompt":
            grids = [] if output.looks is None else output.looks.grids[0]
            maps = selection_losses(output.scores, None, batch, boxes, grids=grids, config=config.selection)
            # The language part is a share of the whole step already; this one is a mean over the micro-batch.
            share = self.shares.of(batch, steps)
            metrics |= {name: value * share * steps for name, value in maps.metrics.items()}
            loss = loss + maps.loss * share
        return StepResult(loss, metrics)


class SelectStep:
    """``select``: fit the score map of a question to its box. Low resolution only, language model without
    gradient."""

    normalised_over_accumulation = False

    def __init__(self, config: StageConfig) -> None:
        """Take the losses' weights from ``config``."""
        self.config = config
        self.shares = BoxShares(config)

    def begin(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count what the loss of the step is divided by."""
        self.shares.begin(batches)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config = self.config.selection
        boxes = shares_of_pictures(batch)
        output = model(
            **question_inputs(batch),
            high_res=HighResOptions(guided_by="prompt"),
            saliency=config.bottom_up_weight > 0,
            scores_only=True,
            prompt_gradient=config.prompt_gradient,
            packing=self.config.data.packing,
        )
        height, width = batch["pixel_values"][0].shape[1:]
        grids = scale_grids(unwrap(model).config.vision_config, (width, height))
        result = selection_losses(
            output.scores, output.saliency_scores, batch, boxes, grids=grids, config=config
        )
        # The trainer divides by the number of micro-batches once more.
        steps = self.config.accumulation_steps(world_size())
        share = self.shares.of(batch, steps) * steps
        return StepResult(
            result.loss * share, {name: value * share for name, value in result.metrics.items()}
        )


class AccountedStep:
    """A step on rows of data files: also adds up what became of the rows."""

    def __init__(self, step: Step, account: Account) -> None:
        """Take the reports of the batches of ``step``."""
        self.step = step
        self.account = account
        self.normalised_over_accumulation = step.normalised_over_accumulation

    def begin(self, batches: Sequence[dict[str, Any]]) -> None:
        """Take the reports; see ``Account.take`` for errors."""
        for batch in batches:
            self.account.take(batch["report"])
        self.step.begin(batches)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        result = self.step(model, batch, num_items=num_items)
        return StepResult(result.loss, result.metrics | self.account.metrics())


def mean_patches(chosen: PatchSelection | None) -> Tensor:
    """Mean number of high-resolution patches per look."""
    return torch.zeros(()) if chosen is None else (chosen.index >= 0).sum(1).float().mean()


def mean_visual_tokens(chosen: PatchSelection | None, config: VilaHDConfig) -> Tensor:
    """Mean number of visual tokens per look, of all resolutions."""
    if chosen is None:
        return torch.zeros(())
    cells = complete_cells(chosen.index, chosen.grids, config.downsample, config.cell_rule)
    return torch.tensor(cells.counts).clamp(min=1).float().mean() + config.low_res_tokens


def scale_grids(config: PS3VisionConfig, picture_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of every high-resolution scale, for a picture of ``picture_size`` (width, height)."""
    width, height = picture_size
    low, patch = config.ps3_scales[0], config.patch_size
    return [
        grid_of(scale_size((height, width), scale, low_scale=low, patch=patch), patch)
        for scale in config.high_scales
    ]
