"""What DeepSpeed needs to be told, and the places where it has to be worked around."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.errors import VilaHDError


def prepare_process() -> None:
    """Set up one training process; call once, before anything of DeepSpeed runs.

    Without a launcher the process is rank 0 of 1; under ``srun`` it takes its rank from Slurm. CPU threads
    are shared evenly by the processes of this machine, unless OMP_NUM_THREADS says otherwise: on busy cores,
    two threads in each process are slower than one.

    Raises:
        VilaHDError: ``srun`` started several processes, and nobody told them where rank 0 listens.
    """
    os.environ.update(ranks_from_slurm(os.environ))
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        os.environ["MASTER_PORT"] = str(free_port())
    if "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        # In the environment, too: accelerate gives every process all cores when it finds nothing there.
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // local))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _use_plain_gloo()
    _reduce_tower_gradients_when_they_are_there()
    if not torch.cuda.is_available():
        _free_gradients_without_streams()


def ranks_from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher's variables for a process that ``srun`` started as one of several; else nothing.

    Raises:
        VilaHDError: MASTER_ADDR or MASTER_PORT is missing.
    """
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", "1")) < 2:
        return {}
    if "SLURM_PROCID" not in environment:
        return {}  # inside an allocation, but not started by srun
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise VilaHDError(
            f"started by srun as one of {environment['SLURM_NTASKS']} tasks without {' and '.join(missing)}: "
            "export them in the batch script, see train/slurm/train.sbatch"
        )
    local = environment.get("SLURM_NTASKS_PER_NODE") or environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    found = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
    }
    # "4(x2)": four tasks on each of two nodes.
    if local.split("(")[0].isdigit():
        found["LOCAL_WORLD_SIZE"] = local.split("(")[0]
    return found


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Inside, models are built and loaded whole, whatever the ZeRO stage.

    transformers partitions parameters as soon as they are created when its DeepSpeed arguments say ZeRO-3;
    composing a model out of parts, adding rows to embeddings, checking for NaN and merging adapters all need
    them whole. DeepSpeed partitions the finished model when the engine starts.
    """
    from transformers.integrations import deepspeed as integration

    reference = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference


def _use_plain_gloo() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPUs at the first collective.

    It needs a C++ compiler, takes minutes, and gains nothing at our sizes: deepspeed/comm/torch.py,
    build_shm_op.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _reduce_tower_gradients_when_they_are_there() -> None:
    """Let ZeRO-3 take the gradients of a leaf module parameter by parameter, like all others.

    The tower is a leaf: gathered as a whole, because ranks run its blocks different numbers of times. But
    DeepSpeed reduces the gradients of leaves in a full backward hook (deepspeed/runtime/zero/stage3.py,
    create_reduce_and_remove_grad_hooks), and torch runs that hook before the module's own backward pass when
    no input needs a gradient, as with pictures: the tower would learn nothing, without a word.
    """
    from deepspeed.runtime.zero import stage3

    stage3.z3_leaf_parameter = lambda parameter: False


def _free_gradients_without_streams() -> None:
    """Let ZeRO-3 drop its gradients on CPUs, where tensors know no streams.

    deepspeed/runtime/zero/stage3.py, zero_grad calls ``record_stream`` on every gradient that is left.
    """
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Optimizer

    original = Optimizer.zero_grad
    if getattr(original, "frees_first", False):
        return

    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        for group in self.fp16_groups:
            for parameter in group:
                parameter.grad = None
        original(self, set_to_none)

    zero_grad.frees_first = True  # type: ignore[attr-defined]
    Optimizer.zero_grad = zero_grad


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def engine_config(path: Path, precision: str, *, muon: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration: the file, and autocast for bf16.

    ``torch_autocast`` keeps fp32 weights and optimiser state under every ZeRO stage, and computes in bf16.

    Raises:
        VilaHDError: the file cannot be read, or divides what Muon needs whole.
    """
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VilaHDError(f"{path}: not a readable DeepSpeed file ({error})") from error
    zero = config.get("zero_optimization", {}).get("stage", 0)
    if muon and zero:
        # deepspeed/runtime/zero/stage_1_and_2.py, step: Muon runs before the norm and the clip.
        raise VilaHDError(
            f"{path}: ZeRO stage {zero} would clip Muon's updates in place of the gradients; use "
            "configs/deepspeed/zero0.json, or leave optim.muon_lr out"
        )
    if precision == "bf16":
        config.setdefault("torch_autocast", {"enabled": True, "dtype": "bfloat16"})
    return config


def flatten_scalars(model: nn.Module) -> set[str]:
    """Give scalar parameters the shape ``(1,)``; returns their names.

    DeepSpeed cannot broadcast 0-dim parameters: deepspeed/runtime/engine.py, _broadcast_model views them as
    bytes.
    """
    names = set()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            parameter.data = parameter.data.reshape(1)
            names.add(name)
    return names


def restore_scalars(state_dict: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """``state_dict`` with the scalars of :func:`flatten_scalars` in their own shape."""
    return {key: value.reshape(()) if key in names else value for key, value in state_dict.items()}
