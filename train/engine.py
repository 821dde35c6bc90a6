"""What DeepSpeed needs to be told, and the three places where it has to be worked around."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vila_hd.errors import VilaHDError


def prepare_process() -> None:
    """Set up one training process; call once, before anything of DeepSpeed runs.

    Without a launcher the process is rank 0 of 1. CPU threads are shared evenly by the processes of this
    machine, unless OMP_NUM_THREADS says otherwise: on busy cores, two threads in each process are slower
    than one.
    """
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        os.environ["MASTER_PORT"] = str(free_port())
    if "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        # In the environment, too: accelerate gives every process all cores when it finds nothing there.
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // local))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _use_plain_gloo()
    if not torch.cuda.is_available():
        _free_gradients_without_streams()


def _use_plain_gloo() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPUs at the first collective.

    It needs a C++ compiler, takes minutes, and gains nothing at our sizes: deepspeed/comm/torch.py,
    build_shm_op.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


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


def engine_config(path: Path, precision: str) -> dict[str, Any]:
    """DeepSpeed's configuration: the file, and autocast for bf16.

    ``torch_autocast`` keeps fp32 weights and optimiser state under every ZeRO stage, and computes in bf16.

    Raises:
        VilaHDError: the file cannot be read.
    """
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VilaHDError(f"{path}: not a readable DeepSpeed file ({error})") from error
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
