"""How a training process may end besides well and in error. Imports nothing heavy."""

REQUEUE = 75
"""Exit status after a signal: nothing is wrong, start again with ``--resume`` (EX_TEMPFAIL of sysexits.h)."""


class Preempted(Exception):  # noqa: N818  # not an error
    """Training stopped on a signal, after a checkpoint was written."""

    def __init__(self, step: int) -> None:
        """Stopped after optimiser step ``step``."""
        super().__init__(
            f"stopped by a signal after step {step}; a checkpoint is written, go on with --resume"
        )
        self.step = step
