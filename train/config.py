"""What a training run is made of: one ``StageConfig`` per YAML file under ``configs/train``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vila_hd.options import Guide

from .data.config import CanvasConfig, DataConfig, SourceConfig
from .lora import LoraConfig
from .stages import Component

__all__ = [
    "CanvasConfig",
    "ContrastiveConfig",
    "DataConfig",
    "LookConfig",
    "OptimConfig",
    "RecipeConfig",
    "SelectionConfig",
    "SourceConfig",
    "StageConfig",
    "StageKind",
]

StageKind = Literal["ps3_pretrain", "align", "pretrain", "sft", "select"]
"""What is optimised: ``ps3_pretrain`` contrasts regions with captions; ``align``, ``pretrain`` and ``sft``
predict answers (by custom they train the projector, also the language model, and everything); ``select`` fits
the score map of a question to the box of its answer."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, Muon for hidden matrices if asked for, and their schedule."""

    lr: float
    """Peak learning rate of every component that ``component_lr`` does not name."""

    muon_lr: float | None = None
    """Peak learning rate of hidden matrices, which Muon then trains (DeepSpeed's; ZeRO stage 0); None: AdamW
    trains them too. For a component of ``component_lr`` it is scaled like ``lr``."""

    component_lr: Mapping[Component, float] = field(default_factory=lambda: {})
    """Peak learning rate of single components; the schedule scales every one of them."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    """On matrices; vectors, norms, biases and scalars are not decayed."""

    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"

    def __post_init__(self) -> None:
        for name, value in [("lr", self.lr), ("muon_lr", self.muon_lr), *self.component_lr.items()]:
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: use a learning rate > 0 (freeze with 'trainable')")

    def rate(self, component: Component, *, muon: bool) -> float:
        """Peak learning rate of a component's parameters, of those that Muon trains or of the others."""
        rate = self.component_lr.get(component, self.lr)
        return rate if not muon or self.muon_lr is None else self.muon_lr * rate / self.lr


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Regions against captions."""

    global_share: float = 0.25
    """Share of pictures that also contribute a pair of whole picture (low-resolution pass only) and global
    caption."""

    global_instead: bool = False
    """Whether such a picture contributes that pair alone, as published, and none of its regions."""

    close_ups: float = 0.0
    """Share of such pictures that are cut down to one object, whose caption they then have: objects as large
    as in pictures that were made for them. Scenes only, with ``global_instead``."""

    intra_image_negatives: bool = False
    """Whether other regions of the same picture count as negatives. Equal captions never do."""

    swapped_captions: int = 0
    """Hard negatives per region: its caption with another mark of the same kind. 0: none."""

    logit_bias: float | None = None
    """Start value of the logit bias when the model is built from scratch; None: the model's own."""

    def __post_init__(self) -> None:
        if not 0 <= self.global_share <= 1:
            raise ValueError(f"global_share={self.global_share}: use a share from 0 to 1")
        if not 0 <= self.close_ups <= 1:
            raise ValueError(f"close_ups={self.close_ups}: use a share from 0 to 1")
        if self.close_ups and not self.global_instead:
            raise ValueError(f"close_ups={self.close_ups}: only with global_instead=true")
        if self.swapped_captions < 0:
            raise ValueError(f"swapped_captions={self.swapped_captions}: use a number >= 0")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Score maps against boxes."""

    top_down_weight: float = 1.0
    """Weight of the loss of the map that the caption or question steers."""

    bottom_up_weight: float = 1.0
    """Weight of the loss of the map without text; 0 skips it."""

    bottom_up_target: Literal["all_boxes", "sampled_boxes"] = "all_boxes"
    """Boxes that the map without text should mark: those of every object, or of the items of this batch."""

    dice_weight: float = 1.0
    positive_weight: float = 1.0
    """Factor on the BCE of cells inside a box (a small minority); 1: none."""

    rank_weight: float = 0.0
    """Weight of the loss on the order of the cells, which decides what is looked at; 0, as published, skips
    it."""

    prompt_gradient: bool = False
    """Whether the loss of the question's map also trains the language model (``sft``), for one that is new;
    False, as published: it ends at the prompt head."""

    resolution: Literal["cells", "scales"] = "cells"
    """``cells``: compare on the grid that scores are made on; ``scales``: on the grid of every
    high-resolution scale, as published - the same signal at a higher cost."""


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """Which patches are encoded while training."""

    per_scale: tuple[int, ...] | None = None
    """Patches of each high-resolution scale per look, low scale first; None: the model's own split."""

    passes: int = 1
    """Passes of that many patches per look. The default budget of the model itself is for answering only."""

    least_share: float = 1.0
    """Each step draws, evenly in its logarithm, which share of those patches its looks get, from this one to
    all, so that one model answers well at many budgets. 1: always all."""

    forced_share: float = 1.0
    """Side of the part of a box that is forced into the choice. Boxes are forced in whole cells of the first
    high-resolution scale, so a small budget covers an object better when only its middle is forced. 0:
    nothing is forced."""

    pooled_share: float = 1.0
    """Side of the part of a box whose chosen patches are pooled against its caption (``ps3_pretrain``); less
    than 1 leaves out frames and surroundings. 0: all chosen patches are pooled."""

    distractors: int = 0
    """Boxes of other items of the same picture that are forced into each look as well (``ps3_pretrain``), so
    that features learn to tell neighbours apart."""

    own_choice: float = 0.0
    """Share of looks whose patches the model chooses by itself; the others are given the box of the item
    first."""

    guided_by: Guide = "prompt"
    """What fills the budget beside given boxes, and what own choices follow (``sft``, ``align``)."""

    def __post_init__(self) -> None:
        if not 0 <= self.own_choice <= 1:
            raise ValueError(f"own_choice={self.own_choice}: use a share from 0 to 1")
        for name, share in (("forced_share", self.forced_share), ("pooled_share", self.pooled_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: use a share from 0 to 1")
        if not 0 < self.least_share <= 1:
            raise ValueError(f"least_share={self.least_share}: use a share above 0, at most 1")
        if self.passes < 1:
            raise ValueError(f"passes={self.passes}: use a number >= 1")
        if self.distractors < 0:
            raise ValueError(f"distractors={self.distractors}: use a number >= 0")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage. Values in YAML; types, defaults and documentation here."""

    name: str
    """Equal to the file name."""

    stage: StageKind

    model: Path
    """Folder of the model to start from; a ``.yaml`` model file builds one with random weights."""

    llm: Path | None = None
    """With a PS3 folder as ``model``: the language model to put behind it, a folder or a ``.yaml`` model
    file."""

    trainable: tuple[Component, ...]
    """Components that receive gradients; everything else is frozen and kept in eval mode."""

    lora: LoraConfig | None = None
    """Adapters, in place of all weights of a component; None: none."""

    output_dir: Path
    """Run folder: the finished model in ``model/``, checkpoints, resolved config, command, versions,
    metrics."""

    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    looks: LookConfig = field(default_factory=LookConfig)

    max_steps: int
    global_batch_size: int
    """Pictures per optimiser step, over all ranks and micro-batches."""

    micro_batch_size: int
    """Pictures per rank and forward pass. Contrastive negatives come from one micro-batch of all ranks."""

    deepspeed: Path = Path("configs/deepspeed/zero0.json")
    precision: Literal["bf16", "fp32"] = "bf16"
    """``bf16``: autocast over fp32 weights; ``fp32``: no autocast."""

    gradient_checkpointing: bool = False
    save_steps: int = 0
    """Optimiser steps between two resumable checkpoints; 0: none."""

    logging_steps: int = 10
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where the numbers of ``metrics.jsonl`` go, too: the run folder's ``tensorboard/``, Weights & Biases."""

    maps_steps: int = 0
    """Optimiser steps between two pictures of what the model looks at in the same validation samples, written
    to ``maps/``; 0: none. Not for ``ps3_pretrain``."""

    maps_samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.trainable:
            raise ValueError("trainable is empty: nothing would be optimised")
        if self.lora is not None:
            self._check_lora(self.lora)
        for name in ("max_steps", "global_batch_size", "micro_batch_size", "logging_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a number >= 1")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of "
                f"micro_batch_size={self.micro_batch_size}"
            )
        if self.data.block_size % self.global_batch_size and self.data.picture_repeats > 1:
            raise ValueError(
                f"data.block_size={self.data.block_size} is not a multiple of "
                f"global_batch_size={self.global_batch_size}: repeated pictures would change ranks"
            )
        answers = self.stage in ("align", "pretrain", "sft")
        if answers and self.looks.guided_by != "prompt" and "selector" in self.trainable:
            raise ValueError(
                f"looks.guided_by={self.looks.guided_by!r} gives the selector nothing to learn from: take "
                "'selector' out of 'trainable', or use guided_by='prompt'"
            )
        self._check_regions()
        if self.data.sources:
            self._check_sources()
        unused = sorted(set(self.optim.component_lr) - set(self.trainable))
        if unused:
            raise ValueError(f"optim.component_lr names {unused}, which 'trainable' does not")

    def _check_sources(self) -> None:
        if self.stage == "ps3_pretrain":
            raise ValueError("data.sources: ps3_pretrain learns from regions and captions, not from answers")
        selection = self.selection
        if (
            self.stage == "select"
            and selection.bottom_up_weight
            and selection.bottom_up_target == "all_boxes"
        ):
            raise ValueError(
                "selection.bottom_up_target=all_boxes with data.sources: rows say what their question needs, "
                "not everything that stands out; set selection.bottom_up_weight=0"
            )

    def _check_regions(self) -> None:
        """Choices that belong to files of regions, or to scenes."""
        if self.data.regions is None:
            return
        if self.stage != "ps3_pretrain":
            raise ValueError(f"data.regions with stage={self.stage!r}: only 'ps3_pretrain' reads regions")
        if self.data.regions.resize == "fit" and self.selection.resolution == "scales":
            raise ValueError(
                "selection.resolution=scales with data.regions.resize=fit: grids differ; use cells"
            )
        if self.contrastive.close_ups:
            raise ValueError(f"contrastive.close_ups={self.contrastive.close_ups}: only for scenes; use 0")
        if self.contrastive.swapped_captions:
            raise ValueError(
                f"contrastive.swapped_captions={self.contrastive.swapped_captions} with data.regions: only "
                "captions of scenes can be swapped; use 0"
            )

    def _check_lora(self, lora: LoraConfig) -> None:
        if self.stage == "ps3_pretrain" or self.llm is not None:
            raise ValueError("lora: needs a complete model to start from; join tower and llm first (align)")
        unused = sorted(set(lora.components) - set(self.trainable))
        if unused:
            raise ValueError(f"lora.components names {unused}, which 'trainable' does not")
        if lora.bits is not None and "3" in self.deepspeed.stem:
            raise ValueError(f"lora.bits={lora.bits}: ZeRO-3 cannot cut such weights; use zero2.json")

    def accumulation_steps(self, ranks: int) -> int:
        """Micro-batches per rank and optimiser step.

        Raises:
            ValueError: the global batch does not split evenly.
        """
        if self.global_batch_size % (self.micro_batch_size * ranks):
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of micro_batch_size="
                f"{self.micro_batch_size} x {ranks} processes"
            )
        return self.global_batch_size // (self.micro_batch_size * ranks)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Stages in order, each starting from the finished model of the one before."""

    name: str
    stages: tuple[Path, ...]
    """Stage files, relative to the recipe file."""

    output_dir: Path
    """Every stage runs in ``output_dir/<stage name>``."""

    ranks: int = 1
    """Processes per stage, started with the DeepSpeed launcher."""

    smoke: dict[str, object] = field(default_factory=dict)
    """Values laid over every stage by ``--smoke``: few steps, tiny widths."""

    smoke_model: Path | None = None
    """Model file that replaces the ``.yaml`` ones of the stages in a smoke run, relative to the recipe
    file."""
