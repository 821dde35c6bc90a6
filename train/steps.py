"""The stages: batch -> model -> objectives. Everything that is computed lives in ``train.objectives``."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.projector import cells_of, count_tokens
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.configuration_trunk import TrunkConfig
from vila_hd.ps3.resampling import grid_of, scale_size
from vila_hd.ps3.selection import PatchSelection

from .box_losses import (
    BoxShares,
    boxes_as_regions,
    given_boxes,
    normalised_boxes,
    selection_losses,
    shares_of_pictures,
    shrink_boxes,
    with_distractors,
)
from .config import LookConfig, StageConfig
from .data.account import Account
from .distributed import world_size
from .objectives import contrastive, language
from .trainer import Step, StepResult

MAX_LOGIT_SCALE = math.log(100.0)
"""Logarithm of the largest factor on similarities, as in the published training."""


def unwrap(model: nn.Module) -> Any:
    """The model inside the engine."""
    return getattr(model, "module", model)


def look_options(config: LookConfig, vision: TrunkConfig, share: float = 1.0) -> HighResOptions:
    """How closely to look while training, independent of the budget that the model answers with.

    Args:
        config: says how.
        vision: the tower's.
        share: of the patches; see ``share_of_step``.

    Raises:
        VilaHDError: the tower cannot do it.
    """
    if not isinstance(vision, PS3VisionConfig):
        if config.least_share < 1:
            raise VilaHDError(
                f"looks.least_share={config.least_share}: this tower chooses no patches; leave it out"
            )
        return vision.fit_options(HighResOptions(guided_by=config.guided_by, per_scale=config.per_scale))
    split = config.per_scale or vision.max_select_num_each_scale
    patches = vision.max_select_num if split is None else sum(split)
    return HighResOptions(
        budget=max(1, round(share * config.passes * patches)),
        per_scale=config.per_scale,
        guided_by=config.guided_by,
    )


def share_of_step(config: StageConfig, number: int) -> float:
    """Share of their patches that all looks of an optimiser step get: the same on every rank, and again after
    a resume.

    Args:
        config: says how small it can be, and has the seed.
        number: of the steps before.
    """
    return config.looks.least_share ** random.Random(f"{config.seed} {number}").random()


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
        self.patch_share = 1.0

    def begin(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Draw how many patches the looks of the step get."""
        self.patch_share = share_of_step(self.config, number)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config, looks = self.config, batch["look_index"]
        boxes = normalised_boxes(batch["boxes"], batch["picture_sizes"][looks])
        forced, forced_look = with_distractors(
            shrink_boxes(boxes, config.looks.forced_share), looks, config.looks.distractors
        )
        output = model(
            batch["pixel_values"],
            batch["input_ids"],
            options=look_options(config.looks, unwrap(model).config.vision_config, self.patch_share),
            regions=boxes_as_regions(forced, forced_look, len(looks)),
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


class LanguageStep:
    """``align``, ``pretrain`` and ``sft``: predict the answer; boxes are given to the tower except for looks
    of its own choice."""

    normalised_over_accumulation = True

    def __init__(self, config: StageConfig) -> None:
        """Take the looks' options from ``config``."""
        self.config = config
        self.shares = BoxShares(config)
        self.patch_share = 1.0

    def begin(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Count what the losses of the step are divided by, and draw how many patches its looks get."""
        self.shares.begin(batches)
        self.patch_share = share_of_step(self.config, number)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        config = self.config
        boxes, (given, given_look) = shares_of_pictures(batch), given_boxes(batch)
        given = shrink_boxes(given, config.looks.forced_share)
        options = look_options(config.looks, unwrap(model).config.vision_config, self.patch_share)
        output = model(
            **question_inputs(batch),
            labels=batch["labels"],
            high_res=options,
            regions=boxes_as_regions(given, given_look, len(batch["look_index"])),
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
            "visual_tokens": mean_visual_tokens(output.looks, len(batch["look_index"]), unwrap(model).config),
        }
        if options.guided_by == "prompt":
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

    def begin(self, batches: Sequence[dict[str, Any]], number: int) -> None:
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

    def begin(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """Take the reports; see ``Account.take`` for errors."""
        for batch in batches:
            self.account.take(batch["report"])
        self.step.begin(batches, number)

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of one micro-batch."""
        result = self.step(model, batch, num_items=num_items)
        return StepResult(result.loss, result.metrics | self.account.metrics())


def mean_patches(chosen: PatchSelection | None) -> Tensor:
    """Mean number of high-resolution patches per look."""
    return torch.zeros(()) if chosen is None else (chosen.index >= 0).sum(1).float().mean()


def mean_visual_tokens(chosen: PatchSelection | None, looks: int, config: VilaHDConfig) -> Tensor:
    """Mean number of visual tokens per look, of all resolutions; 0 without looks."""
    high = (0.0,) if chosen is None else count_tokens(cells_of(chosen, config), chosen)
    return torch.tensor(high, dtype=torch.float).mean() + (config.low_res_tokens if looks else 0)


def scale_grids(config: PS3VisionConfig, picture_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of every high-resolution scale, for a picture of ``picture_size`` (width, height)."""
    width, height = picture_size
    low, patch = config.ps3_scales[0], config.patch_size
    return [
        grid_of(scale_size((height, width), scale, low_scale=low, patch=patch), patch)
        for scale in config.high_scales
    ]
