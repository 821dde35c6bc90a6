"""The finished model: gathered from all ranks, written aside, opened again, compared, and only then given its
name."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vila_hd.errors import VilaHDError

from .assembly import Assembly
from .config import StageConfig
from .distributed import barrier, rank
from .engine import restore_scalars, whole_models
from .lora import merge_state, save_adapter
from .trainer import StageTrainer

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
"""Sub-folder of a run folder with the finished model."""

ADAPTER_FOLDER = "adapter"
"""Sub-folder of a run folder with the adapter alone, where ``MODEL_FOLDER`` holds the whole model."""


def save(trainer: StageTrainer, assembly: Assembly, config: StageConfig, scalars: set[str]) -> Path:
    """Write the finished model and return its folder.

    Every rank takes part: under ZeRO-3 the weights are gathered from all of them.

    Raises:
        VilaHDError: what was written does not open as what was trained.
    """
    folder = config.output_dir / MODEL_FOLDER
    state: dict[str, Tensor] | None = trainer.accelerator.get_state_dict(trainer.deepspeed)
    if rank() == 0:
        assert state is not None
        state = restore_scalars(state, scalars)
        with whole_models():
            _write(assembly, config, state, folder)
        logger.info("saved %s", folder)
    barrier()
    return folder


def _write(assembly: Assembly, config: StageConfig, state: dict[str, Tensor], folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    lora = config.lora
    if lora is not None:
        adapter = folder.with_name(ADAPTER_FOLDER) if lora.merge else partial
        trained = {name for name, value in assembly.model.named_parameters() if value.requires_grad}
        save_adapter(adapter, state, trained, lora, config.model)
        # Weights of few bits cannot be compared: opened without bitsandbytes, the base has all of them.
        state = {} if lora.bits else merge_state(state, lora)
    if lora is None or lora.merge:
        assembly.save(partial, state)
    check_saved(assembly.load(partial).state_dict(), state, partial)
    partial.rename(folder)


def check_saved(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Pass when the weights that were read again are those that were written.

    Raises:
        VilaHDError: a weight is missing or has other values; names it.
    """
    wrong = [
        name
        for name, value in expected.items()
        if name not in found or not torch.equal(found[name].cpu(), value.cpu().to(found[name].dtype))
    ]
    if wrong:
        raise VilaHDError(
            f"{folder} was written, but {len(wrong)} weights are not the trained ones when it is opened, "
            f"e.g. {sorted(wrong)[0]}: check the disk; checkpoints are untouched, go on with --resume"
        )
