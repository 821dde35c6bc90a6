"""A thin ``transformers.Trainer``: the loss of a stage, one optimiser group per component and decay, whole
checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import Trainer

from . import checkpoints
from .config import OptimConfig
from .distributed import rank, world_size
from .meter import Meter
from .optimizer import make_optimizer
from .stages import eval_frozen_modules


@dataclass(frozen=True)
class StepResult:
    """What a stage makes of one micro-batch."""

    loss: Tensor
    """Scalar; its mean over ranks is minimised."""

    metrics: dict[str, Tensor]
    """Detached scalars for the log: parts of the loss, rates. The same names on every rank and in every
    step."""


class Step(Protocol):
    """One stage: batch -> model -> objectives."""

    normalised_over_accumulation: bool
    """Whether the loss already is a share of the whole optimiser step (then micro-batches are summed)."""

    def begin(self, batches: Sequence[dict[str, Any]], number: int) -> None:
        """See all micro-batches of an optimiser step before the first of them is run; ``number``: of the
        steps before, also of those before a resume."""
        ...

    def __call__(self, model: nn.Module, batch: dict[str, Any], *, num_items: Tensor | None) -> StepResult:
        """Loss and metrics of ``batch``; ``num_items``: supervised tokens of the whole optimiser step."""
        ...


class StageTrainer(Trainer):
    """Trainer whose loss is a :class:`Step`."""

    def __init__(self, *, step: Step, optim: OptimConfig, **kwargs: Any) -> None:
        """Wrap ``step``; ``kwargs`` are those of ``transformers.Trainer``."""
        super().__init__(**kwargs)
        self.step = step
        self.optim_config = optim
        self.meter = Meter()
        self._partial = Path(self.args.output_dir)
        # Trainer counts the supervised tokens of an optimiser step only for models that accept the count.
        self.model_accepts_loss_kwargs = step.normalised_over_accumulation
        self.loss_is_scaled_for_ga = step.normalised_over_accumulation

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of an optimiser step, and the number of their supervised tokens on all ranks."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self.step.begin(batches, self.state.global_step)
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, StepResult]:
        """Loss of one micro-batch."""
        eval_frozen_modules(self.model)
        num_items = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        result = self.step(model, inputs, num_items=num_items)
        # A share of the whole optimiser step is small; the log tells its mean.
        shares = self.args.gradient_accumulation_steps if self.step.normalised_over_accumulation else 1
        self.meter.add({"loss": result.loss * shares, **result.metrics}, inputs)
        return (result.loss, result) if return_outputs else result.loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: transformers' estimate counts the values of one input tensor, and pictures come as a list."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the steps' own metrics and the speed to the numbers of every log; every rank calls it."""
        if "loss" in logs:
            logs |= self.meter.read()
        super().log(logs, start_time)

    # ---------------------------------------------------------------- checkpoints

    @property
    def written(self) -> checkpoints.Written:
        """What a checkpoint of this run depends on."""
        return checkpoints.Written(world_size(), self.deepspeed.zero_optimization_stage())

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside and publish it when every rank has written its part."""
        run_folder = Path(self.args.output_dir)
        self._partial = checkpoints.start_partial(run_folder)
        super()._save_checkpoint(model, trial)
        name = f"checkpoint-{self.state.global_step}"
        checkpoints.publish(self._partial / name, run_folder / name, self.written)
        if rank() == 0:
            self._partial.rmdir()
            checkpoints.keep_newest(run_folder, self.args.save_total_limit)

    def _get_output_dir(self, trial: Any) -> str:
        """Where transformers writes ``checkpoint-<step>``: the folder aside."""
        return str(self._partial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Only the folder: the engine's state has the weights, a second copy would be gathered in vain."""
        Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The engine's state without frozen weights, which the model to start from has, and the schedule."""
        self.deepspeed.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if rank() == 0:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, Any]:
        """Start the engine; load its state without asking for frozen weights."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            checkpoints.check_resumable(Path(resume_from_checkpoint), self.written)
            self.deepspeed.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    # ---------------------------------------------------------------- optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stage's optimiser; the schedule scales the rate of each of its groups."""
        optimizer: torch.optim.Optimizer | None = getattr(self, "optimizer", None)
        if optimizer is None:
            optimizer = self.optimizer = make_optimizer(
                self.model if model is None else model, self.optim_config
            )
        return optimizer
