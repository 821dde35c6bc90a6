"""The stages: batch -> model -> objectives. Everything that is computed lives in ``train.objectives``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.options import HighResOptions
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.resampling import grid_of, scale_size
from vila_hd.ps3.selection import PatchSelection

from .config import LookConfig, SelectionConfig, StageConfig
from .distributed import world_size
from .objectives import contrastive, language, selection
from .trainer import StepResult

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
    scores: Tensor, regions: Regions, grids: Sequence[tuple[int, int]], config: SelectionConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of score maps against boxes by name, and the share of best cells inside.

    Args:
        scores: ``(L, g, g)`` probabilities.
        regions: the boxes of each look.
        grids: rows and columns of every high-resolution scale.
        config: weights, and the grids to compare on.
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
    hits = (
        selection.hit_rate(scores[with_box], cells[with_box])
        if bool(with_box.any())
        else scores.new_zeros(())
    )
    return losses, hits.detach()


def first_look_of_pictures(look_index: Tensor) -> Tensor:
    """Positions of the first look at each picture, pictures ascending; looks must be numbered without
    gaps."""
    order = torch.argsort(look_index, stable=True)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = look_index[order][1:] != look_index[order][:-1]
    return order[starts]


def boxes_as_regions(boxes: Tensor) -> Regions:
    """One box per look; boxes without area are no region."""
    return Regions.from_boxes(
        [box[None] if box[2] > box[0] and box[3] > box[1] else box.new_zeros(0, 4) for box in boxes]
    )


def bottom_up_targets(batch: dict[str, Any], boxes: Tensor, config: SelectionConfig) -> Regions:
    """Per picture, what the map without text should mark: all objects, or the items of this batch.

    Args:
        batch: from a collator.
        boxes: ``(L, 4)`` normalised boxes of its looks.
        config: says which.
    """
    looks, sizes = batch["look_index"], batch["picture_sizes"]
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
) -> StepResult:
    """Weighted losses of the score maps that there are, and their parts.

    Args:
        prompt_scores: ``(L, g, g)`` steered by text, against the box of each look.
        saliency_scores: ``(L, g, g)`` without text, against the boxes of each picture, once per picture.
        batch: from a collator.
        boxes: ``(L, 4)`` normalised boxes of its looks.
        grids: rows and columns of every high-resolution scale.
        config: weights and targets.
    """
    parts = []
    if prompt_scores is not None:
        part = selection_parts(prompt_scores, boxes_as_regions(boxes), grids, config)
        parts.append(("top_down", config.top_down_weight, part))
    if saliency_scores is not None:
        first = first_look_of_pictures(batch["look_index"])
        part = selection_parts(saliency_scores[first], bottom_up_targets(batch, boxes, config), grids, config)
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


class PretrainStep:
    """``ps3_pretrain``: regions against captions, score maps against boxes. One model call for everything."""

    normalised_over_accumulation = False

    def __init__(self, config: StageConfig) -> None:
        """Take the losses' weights and the looks' options from ``config``."""
        self.config = config

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
        maps = selection_losses(
            output.prompt_scores,
            output.saliency_scores,
            batch,
            boxes,
            grids=output.vision.selection.grids[0],
            config=config.selection,
        )
        return StepResult(loss + maps.loss, metrics | maps.metrics)


def question_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the multi-modal model reads of a batch of questions."""
    names = ("input_ids", "attention_mask", "pixel_values", "look_index", "prompt_positions")
    return {name: batch[name] for name in names}


class LanguageStep:
    """``align`` and ``sft``: predict the answer; boxes are given to the tower except for looks of its own
    choice."""

    normalised_over_accumulation = True

    def __init__(self, config: StageConfig) -> None:
        """Take the looks' options from ``config``."""
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config = self.config
        boxes = normalised_boxes(batch["boxes"], batch["picture_sizes"][batch["look_index"]])
        given = shrink_boxes(boxes, config.looks.forced_share) * ~batch["own_choice"][:, None]
        output = model(
            **question_inputs(batch),
            labels=batch["labels"],
            high_res=look_options(config.looks, unwrap(model).config.vision_config),
            regions=boxes_as_regions(given),
            num_items_in_batch=num_items,
            prompt_gradient=config.selection.prompt_gradient,
        )
        loss = language.rank_share(output.loss, ranks=world_size())
        metrics = {
            "language": loss.detach(),
            "exact_match": language.exact_match(output.supervised_logits, batch["labels"]),
            "high_res_patches": mean_patches(output.looks),
        }
        if config.looks.guided_by == "prompt":
            maps = selection_losses(
                output.scores, None, batch, boxes, grids=output.looks.grids[0], config=config.selection
            )
            metrics |= maps.metrics
            # The language part is a share of the whole step already; this one is a mean over the micro-batch.
            loss = loss + maps.loss / config.accumulation_steps(world_size())
        return StepResult(loss, metrics)


class SelectStep:
    """``select``: fit the score map of a question to its box. Low resolution only, language model without
    gradient."""

    normalised_over_accumulation = False

    def __init__(self, config: StageConfig) -> None:
        """Take the losses' weights from ``config``."""
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config, looks = self.config.selection, batch["look_index"]
        boxes = normalised_boxes(batch["boxes"], batch["picture_sizes"][looks])
        output = model(
            **question_inputs(batch),
            high_res=HighResOptions(guided_by="prompt"),
            saliency=config.bottom_up_weight > 0,
            scores_only=True,
            prompt_gradient=config.prompt_gradient,
        )
        grids = scale_grids(unwrap(model).config.vision_config, batch["picture_sizes"][0])
        return selection_losses(
            output.scores, output.saliency_scores, batch, boxes, grids=grids, config=config
        )


def mean_patches(chosen: PatchSelection | None) -> Tensor:
    """Mean number of high-resolution patches per look."""
    return torch.zeros(()) if chosen is None else (chosen.index >= 0).sum(1).float().mean()


def scale_grids(config: PS3VisionConfig, picture_size: Tensor) -> list[tuple[int, int]]:
    """Rows and columns of every high-resolution scale, for a picture of ``picture_size`` (width, height)."""
    width, height = picture_size.tolist()
    low, patch = config.ps3_scales[0], config.patch_size
    return [
        grid_of(scale_size((height, width), scale, low_scale=low, patch=patch), patch)
        for scale in config.high_scales
    ]
