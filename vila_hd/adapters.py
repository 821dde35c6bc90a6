"""Adapter folders: what was trained on top of a model, opened as the whole model it makes.

``adapter_config.json`` and ``adapter_model.safetensors`` are those of PEFT (LoRA and DoRA on linear layers);
``trained_weights.safetensors`` holds the weights that were trained as a whole, by the model's own names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_files import read_header, read_json
from .errors import VilaHDError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .modeling_vila_hd import VilaHDForConditionalGeneration

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINED_WEIGHTS = "trained_weights.safetensors"

PREFIX = "base_model.model."
"""What PEFT puts before every name."""

BASE = "base_model_name_or_path"
"""Key of the adapter's config: the model that the adapter changes."""

_UNSUPPORTED = (
    "alpha_pattern", "fan_in_fan_out", "layer_replication", "lora_bias", "megatron_config", "modules_to_save",
    "rank_pattern", "target_parameters", "trainable_token_indices", "use_rslora",
)  # fmt: skip
"""Settings of PEFT that change more than ``read_change`` knows; our training writes none of them."""


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` is one of ours: an adapter without a model beside it."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """Folder or hub id of the model that an adapter changes.

    Raises:
        VilaHDError: the adapter does not say, or it is of a kind that is not read here.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    if settings.get("peft_type") != "LORA":
        raise VilaHDError(f"{folder}: peft_type={settings.get('peft_type')!r}: only LORA is supported")
    used = [key for key in _UNSUPPORTED if settings.get(key)]
    if used:
        raise VilaHDError(f"{folder}: {ADAPTER_CONFIG} uses {', '.join(used)}, which is not supported")
    base = settings.get(BASE)
    if not isinstance(base, str) or not base:
        raise VilaHDError(f"{folder / ADAPTER_CONFIG}: {BASE}={base!r}: write the base model's folder there")
    inside = (folder / base).resolve()
    return str(inside) if base.startswith(".") and inside.is_dir() else base


def describe_adapter(folder: Path) -> str:
    """An adapter in a few words, from its small files and headers.

    Raises:
        VilaHDError: a file is damaged or missing.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    low_rank = read_header(folder / ADAPTER_WEIGHTS)
    whole = folder / TRAINED_WEIGHTS
    kept = len(read_header(whole)) if whole.is_file() else 0
    layers = len({name.partition(".lora_")[0] for name in low_rank})
    kind = "DoRA" if settings.get("use_dora") else "LoRA"
    rank = settings.get("r")
    return f"the adapter {folder}: {kind} of rank {rank} on {layers} layers, {kept} tensors as a whole"


def merge_low_rank(
    weight: "Tensor", down: "Tensor", up: "Tensor", scale: float, magnitude: "Tensor | None" = None
) -> None:
    """Add an adapter to the weight of a linear layer, in place.

    Args:
        weight: ``(outputs, inputs)``, float32.
        down: ``(rank, inputs)``, ``lora_A``.
        up: ``(outputs, rank)``, ``lora_B``.
        scale: factor of their product.
        magnitude: ``(outputs,)``: DoRA's lengths of the rows of the sum; None for LoRA.
    """
    weight.addmm_(up, down, alpha=scale)
    if magnitude is not None:
        weight.mul_((magnitude / weight.norm(dim=1))[:, None])


def merge_adapter(model: "VilaHDForConditionalGeneration", folder: Path) -> None:
    """Put an adapter into the weights of its base, in place.

    Raises:
        VilaHDError: the files are damaged, or the adapter belongs to another model.
    """
    import torch
    from safetensors.torch import load_file

    settings = read_json(folder / ADAPTER_CONFIG)
    scale = settings["lora_alpha"] / settings["r"]
    stored: dict[str, dict[str, torch.Tensor]] = {}
    read_header(folder / ADAPTER_WEIGHTS)
    for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        name, separator, part = key.removeprefix(PREFIX).partition(".lora_")
        if not separator or part not in ("A.weight", "B.weight", "magnitude_vector"):
            raise VilaHDError(f"{folder}: {key}: only LoRA and DoRA on linear layers are supported")
        stored.setdefault(f"{name}.weight", {})[part] = tensor.float()
    target = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parts in stored.items():
            weight = _find(target, name, folder)
            full = weight.float()
            try:
                merge_low_rank(
                    full, parts["A.weight"], parts["B.weight"], scale, parts.get("magnitude_vector")
                )
            except (KeyError, RuntimeError) as error:
                raise VilaHDError(
                    f"{folder}: {name} is {tuple(weight.shape)} in the base and its adapter is "
                    f"{ {part: tuple(value.shape) for part, value in parts.items()} }: use the base that it "
                    "was trained on"
                ) from error
            weight.copy_(full)
        for name, tensor in _read_whole(folder).items():
            weight = _find(target, name, folder)
            if weight.shape != tensor.shape:
                raise VilaHDError(
                    f"{folder}: {name} is {tuple(tensor.shape)}, expected {tuple(weight.shape)}: use the "
                    "base that it was trained on"
                )
            weight.copy_(tensor)


def _read_whole(folder: Path) -> "Mapping[str, Tensor]":
    from safetensors.torch import load_file

    path = folder / TRAINED_WEIGHTS
    if not path.is_file():
        return {}
    read_header(path)
    return load_file(path)


def _find(target: "Mapping[str, Any]", name: str, folder: Path) -> "torch.nn.Parameter":
    if name not in target:
        raise VilaHDError(f"{folder}: {name} is not in the base model: use the base that it was trained on")
    found: torch.nn.Parameter = target[name]
    return found


__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "BASE",
    "PREFIX",
    "TRAINED_WEIGHTS",
    "base_of",
    "describe_adapter",
    "is_adapter",
    "merge_adapter",
    "merge_low_rank",
]  # fmt: skip
