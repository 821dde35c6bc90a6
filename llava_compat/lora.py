"""LoRA and DoRA folders of the published training code: read, checked and merged into their base.

The published loader never applies ``non_lora_trainables.bin``, because its names keep a prefix that nothing
has (quirk 24), and cannot load adapters of VILA-HD at all (quirk 25). Here both work.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vila_hd.adapters import merge_low_rank
from vila_hd.checkpoint_files import read_header, read_json
from vila_hd.errors import VilaHDError
from vila_hd.utils.text import one_line

from .folders import ADAPTER_CONFIG
from .key_maps import split_full_name
from .tensors import LazyTensor, from_file, from_tensor

PREFIX = "base_model.model."
"""What PEFT puts before every name."""

PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
"""End of a name in an adapter -> field of ``LowRank``."""

NOT_MERGED = (
    "lora_bias",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings of newer adapters that change more than the weights of linear layers."""

Place = tuple[str, str]
"""Component folder and name of a tensor in it."""


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to the weight of one linear layer."""

    down: LazyTensor
    """``(rank, inputs)``"""

    up: LazyTensor
    """``(outputs, rank)``"""

    scale: float
    magnitude: LazyTensor | None
    """``(outputs,)``: DoRA's lengths of the rows of the sum; None for LoRA."""

    def merge(self, base: LazyTensor, name: str) -> LazyTensor:
        """The weight with the adapter in it.

        Raises:
            VilaHDError: the shapes do not fit; names all.
        """
        outputs, inputs = base.shape if len(base.shape) == 2 else (-1, -1)
        rank = self.down.shape[0] if self.down.shape else -1
        length = None if self.magnitude is None else self.magnitude.shape
        if (self.down.shape, self.up.shape) != ((rank, inputs), (outputs, rank)) or length not in (
            None,
            (outputs,),
        ):
            raise VilaHDError(
                f"{name}: lora_A {self.down.shape} and lora_B {self.up.shape}"
                + ("" if length is None else f" and magnitudes {length}")
                + f" do not fit its weight {base.shape}; use the base that the adapter was trained on"
            )

        def fill(value: Tensor) -> None:
            weight = base.read(torch.float32)
            down, up = self.down.read(torch.float32), self.up.read(torch.float32)
            magnitude = None if self.magnitude is None else self.magnitude.read(torch.float32)
            merge_low_rank(weight, down, up, self.scale, magnitude)
            value.copy_(weight.view(value.shape))

        return LazyTensor(f"{base.source} + LoRA", base.shape, base.dtype, fill)


@dataclass(frozen=True)
class Adapter:
    """A LoRA or DoRA folder."""

    low_rank: Mapping[Place, LowRank]
    replaced: Mapping[Place, LazyTensor]
    """Weights that were trained as a whole."""

    def apply(self, stored: Mapping[str, Mapping[str, LazyTensor]]) -> dict[str, dict[str, LazyTensor]]:
        """The base's tensors, by component folder and name, with everything in this adapter.

        Weights that the base does not have are added: whether they belong is for the config to say.

        Raises:
            VilaHDError: a layer that the base does not have, or shapes that do not fit.
        """
        merged = {component: dict(tensors) for component, tensors in stored.items()}
        for (component, name), tensor in self.replaced.items():
            merged[component][name] = tensor
        for (component, name), change in self.low_rank.items():
            if name not in merged[component]:
                raise VilaHDError(f"the adapter changes {component}:{name}, which its base does not have")
            merged[component][name] = change.merge(merged[component][name], f"{component}:{name}")
        return merged


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder with ``adapter_config.json``.

    Raises:
        VilaHDError: it is damaged, of another kind than LoRA and DoRA on linear layers, or names layers that
            no published model has.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    if settings.get("peft_type") != "LORA":
        raise VilaHDError(f"{folder}: peft_type={settings.get('peft_type')!r}: only LORA is supported")
    used = [key for key in NOT_MERGED if settings.get(key)]
    if used:
        raise VilaHDError(f"{folder}: {ADAPTER_CONFIG} uses {', '.join(used)}, which is not supported")
    if settings.get("fan_in_fan_out"):
        raise VilaHDError(f"{folder}: fan_in_fan_out is not for linear layers; get the adapter again")
    parts: dict[str, dict[str, LazyTensor]] = {}
    replaced: dict[Place, LazyTensor] = {}
    for key, tensor in _read_tensors(folder).items():
        name = key.removeprefix(PREFIX).replace(".default.", ".")
        end = next((end for end in PARTS if name.endswith(end)), None)
        if end is not None:
            parts.setdefault(name.removesuffix(end), {})[PARTS[end]] = tensor
        elif "lora_" in name:
            raise VilaHDError(f"{folder}: {key}: only LoRA and DoRA on linear layers are supported")
        else:
            replaced[split_full_name(name)] = tensor
    low_rank = {
        split_full_name(f"{name}.weight"): _low_rank(name, part, settings) for name, part in parts.items()
    }
    for key, tensor in _read_pickle(folder / "non_lora_trainables.bin").items():
        replaced[split_full_name(key.removeprefix(PREFIX))] = tensor
    if not low_rank and not replaced:
        raise VilaHDError(f"{folder}: holds no weights; get the adapter again")
    return Adapter(low_rank, replaced)


def _low_rank(name: str, part: Mapping[str, LazyTensor], settings: Mapping[str, Any]) -> LowRank:
    for field in ("down", "up"):
        if field not in part:
            raise VilaHDError(
                f"{name}: lora_{'A' if field == 'down' else 'B'} is missing; get the adapter again"
            )
    rank = part["down"].shape[0] if part["down"].shape else 0
    alpha = _for_layer(name, settings.get("alpha_pattern"), settings.get("lora_alpha", 8))
    if not rank or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise VilaHDError(f"{name}: rank {rank} and lora_alpha={alpha!r} make no adapter; get it again")
    scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    if bool(settings.get("use_dora")) != ("magnitude" in part):
        has = "has" if "magnitude" in part else "has no"
        raise VilaHDError(
            f"{name}: use_dora={settings.get('use_dora')}, but it {has} magnitudes; get it again"
        )
    return LowRank(part["down"], part["up"], scale, part.get("magnitude"))


def _for_layer(name: str, patterns: Any, default: Any) -> Any:
    """The value of the first pattern that matches a layer's name, as PEFT looks it up."""
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error as error:
            raise VilaHDError(f"alpha_pattern {pattern!r} is no pattern: {error}") from error
    return default


def _read_tensors(folder: Path) -> dict[str, LazyTensor]:
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        return {
            name: from_file(path, name, info, f"{path.name}:{name}")
            for name, info in read_header(path).items()
        }
    if (folder / "adapter_model.bin").is_file():
        return _read_pickle(folder / "adapter_model.bin")
    raise VilaHDError(f"{folder}: no adapter_model.safetensors; get the whole adapter")


def _read_pickle(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a ``torch.save`` file; none if there is no such file. Code in it is never run."""
    if not path.is_file():
        return {}
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make it raise nearly anything
        reason = one_line(error)[:120] or type(error).__name__
        raise VilaHDError(f"{path}: not a file of plain tensors ({reason}); it is not opened") from error
    if not isinstance(values, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items()
    ):
        raise VilaHDError(f"{path}: not a dictionary of names and tensors; get it again")
    return {key: from_tensor(f"{path.name}:{key}", value) for key, value in values.items()}
