"""What a run writes down while it trains."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .distributed import rank

logger = logging.getLogger(__name__)

_NOT_LOGGED = ("epoch", "learning_rate", "grad_norm")


class RunLog(TrainerCallback):
    """Prints every log line and adds it to ``metrics.jsonl``."""

    def __init__(self, path: Path | None) -> None:
        """Log to ``path``; None writes nothing."""
        self.path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if logs is None or "loss" not in logs or rank() != 0:
            return
        row = {"step": state.global_step, **{k: v for k, v in logs.items() if k not in _NOT_LOGGED}}
        # The engine knows the norm of the gradients only with ZeRO.
        if logs.get("grad_norm") is not None:
            row["grad_norm"] = round(float(logs["grad_norm"]), 4)
        row["lr"] = logs.get("learning_rate")
        logger.info("%s", "  ".join(f"{key} {_short(value)}" for key, value in row.items()))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
