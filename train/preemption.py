"""Stop on a signal without losing work: save after the step that is running, leave with a status of its own.

Schedulers announce the end of a job with SIGTERM (most) or a signal that was asked for (Slurm's
``--signal=USR1@120``). Any rank may get it; all of them stop after the same step.
"""

import logging
import signal
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .distributed import any_rank, rank

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(TrainerCallback):
    """Asks the trainer to save and stop once this process, or that of another rank, got a signal."""

    def __init__(self) -> None:
        self.received = False
        self.stopped_at: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Catch the signals; only possible in the main thread."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop on all ranks together."""
        if any_rank(self.received) and state.global_step < state.max_steps:
            if rank() == 0:
                logger.warning("got a signal: saving after step %d", state.global_step)
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control
