"""The processes of one ``torchrun``, which share the questions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)
"""How long a process that is done waits for the others."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """One process among ``count``."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    """Number on this machine; picks the GPU."""

    @property
    def leads(self) -> bool:
        """Whether this process joins the predictions and reports."""
        return self.index == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def device(self, asked: str | None) -> str | None:
        """The device of this process: its own GPU unless ``asked`` names one."""
        if asked is not None or self.count == 1:
            return asked
        import torch

        gpus = torch.cuda.device_count()
        return f"cuda:{self.local_index % gpus}" if gpus else None


@contextmanager
def join_team() -> Iterator[Team]:
    """The team that ``torchrun`` started, or a team of one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Team()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=PATIENCE)
    yield Team(index=dist.get_rank(), count=count, local_index=int(os.environ.get("LOCAL_RANK", "0")))
    # Not after an error: the others still work, and torchrun ends them.
    dist.destroy_process_group()
