"""What a run writes down while it trains."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .distributed import rank, world_size
from .trainer import MetricMeans

logger = logging.getLogger(__name__)


class RunLog(TrainerCallback):
    """Adds the steps' metrics (means over steps and ranks) and speed to every log line; writes
    ``metrics.jsonl``."""

    def __init__(
        self, means: MetricMeans, path: Path | None, *, pictures_per_step: int, items_per_picture: int
    ) -> None:
        """Log to ``path``; None writes nothing."""
        self.means = means
        self.path = path
        self.pictures_per_step = pictures_per_step
        self.items_per_picture = items_per_picture
        self.last: tuple[float, int] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.last = (time.perf_counter(), state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line; runs on every rank, because means over ranks need all of them."""
        if logs is None or "loss" not in logs or self.last is None:
            return
        now, (then, step) = time.perf_counter(), self.last
        self.last = (now, state.global_step)
        pictures = (state.global_step - step) * self.pictures_per_step
        means = mean_over_ranks(self.means.take())
        row = {
            "step": state.global_step,
            **{name: round(value, 5) for name, value in means.items()},
            # The engine knows the norm of the gradients only with ZeRO.
            **(
                {"grad_norm": round(float(logs["grad_norm"]), 4)} if logs.get("grad_norm") is not None else {}
            ),
            "lr": logs.get("learning_rate"),
            "pictures_per_s": round(pictures / (now - then), 2),
            "items_per_s": round(pictures * self.items_per_picture / (now - then), 1),
        }
        if rank() == 0:
            logger.info("%s", "  ".join(f"{key} {_short(value)}" for key, value in row.items()))
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Mean of each value over ranks; the names must be the same on all of them."""
    if world_size() == 1:
        return values
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64)
    dist.all_reduce(total)
    return {name: float(value) / world_size() for name, value in zip(names, total, strict=True)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
