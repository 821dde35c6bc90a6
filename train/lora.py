"""Low-rank adapters: a component learns through a few small matrices instead of all its weights.

PEFT puts the adapters into the model's own linear layers, so names, components and stages stay as they are.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vila_hd.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    PREFIX,
    TRAINED_WEIGHTS,
    merge_low_rank,
)
from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import import_optional

from .stages import Component, component_of

_ADAPTER = "default"
"""PEFT's name of an adapter inside a model; not in files."""

_PARTS = ("A", "B", "magnitude_vector")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers get adapters, and of which kind."""

    rank: int = 16
    alpha: float = 32.0
    """The adapter's output is multiplied by ``alpha / rank``."""

    dropout: float = 0.0
    components: tuple[Component, ...] = ("llm",)
    """Of ``trainable``, those that learn through adapters; the others learn with all their weights. The tower
    gets adapters when ``vision`` is named."""

    targets: tuple[str, ...] = ()
    """Ends of the names of the layers, such as ``q_proj``; empty: every linear layer but the head."""

    embeddings: bool = False
    """Whether the language model's embeddings and head are trained as a whole, for new tokens or a new
    language."""

    dora: bool = False
    """Whether the lengths of the weights' rows are learned apart from their directions (DoRA)."""

    bits: Literal[4, 8] | None = None
    """Keep the adapted layers' own weights in 4 or 8 bits (QLoRA; needs bitsandbytes). Not under ZeRO-3."""

    merge: bool = True
    """Whether ``model/`` of the run holds the whole model, with ``adapter/`` beside it; False: ``model/`` is
    the adapter, which ``vila_hd.load`` opens, too, as long as its base is there."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: use a number >= 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: use a share from 0 to below 1")
        if not self.components:
            raise ValueError("components is empty: leave lora out")
        if self.bits is not None and self.merge:
            raise ValueError(
                f"bits={self.bits}: weights of {self.bits} bits cannot take an adapter in; set merge to false"
            )


def target_layers(model: nn.Module, config: LoraConfig) -> list[str]:
    """Names of the linear layers that get an adapter.

    Raises:
        ValueError: a target matches no linear layer.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.endswith("lm_head")
        and component_of(f"{name}.weight") in config.components
    ]
    if not config.targets:
        return linear
    unknown = [end for end in config.targets if not any(_ends(name, end) for name in linear)]
    if unknown:
        ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(f"lora.targets: no linear layer ends in {unknown}; there are {ends}")
    return [name for name in linear if any(_ends(name, end) for end in config.targets)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def add_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters into ``model`` and let them learn in place of their components' own weights.

    Call it on a whole model whose other trained weights require gradients already.

    Raises:
        ValueError: a target matches no layer.
        VilaHDError: PEFT or bitsandbytes is missing.
    """
    peft = import_optional("peft", extra="train", purpose="lora")
    layers = target_layers(model, config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained = {name for name in trained if component_of(name) not in config.components}
    if config.embeddings:
        trained |= {f"{name}.weight" for name in _embeddings(model)}
    if config.bits is not None:
        quantize(model, layers, config.bits)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=layers,
        use_dora=config.dora,
        bias="none",
    )
    # PEFT freezes everything else.
    peft.inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained or ".lora_" in name)


def _embeddings(model: nn.Module) -> list[str]:
    """Names of the embedding table and of the head, if that is not the same."""
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    names = [name for name, part in model.named_modules() if getattr(part, "weight", None) is table]
    head = model.get_submodule("lm_head")
    return names[:1] if head.weight is table else [*names[:1], "lm_head"]


def quantize(model: nn.Module, layers: list[str], bits: Literal[4, 8]) -> None:
    """Replace linear layers by ones whose weights take 4 or 8 bits once they are on their device.

    Raises:
        VilaHDError: bitsandbytes is missing.
    """
    bnb = import_optional("bitsandbytes", extra="qlora", purpose=f"lora.bits={bits}")
    import torch

    for name in layers:
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        has_bias = old.bias is not None
        new: Any
        if bits == 4:
            new = bnb.nn.Linear4bit(
                old.in_features, old.out_features, has_bias, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
        else:
            new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, has_bias, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(old.weight.data, requires_grad=False, has_fp16_weights=False)
        new.bias = old.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
        if not torch.cuda.is_available():
            # The kernel for answering on CPUs has no gradient, and frozen layers are in eval mode.
            new.support_avx512bf16_for_cpu = False
            new.to("cpu")


# ---------------------------------------------------------------- saving


def merge_state(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Weights by the names of the model without adapters, with the adapters in them.

    Args:
        state: whole weights of a model with adapters.
        config: the adapters' settings.
    """
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer, base, rest = name.partition(".base_layer.")
        if not base:
            merged[name] = value
            continue
        if rest == "weight":
            parts = {part: state.get(_stored(layer, part)) for part in _PARTS}
            down, up, magnitude = parts["A"], parts["B"], parts["magnitude_vector"]
            assert down is not None
            assert up is not None
            full = value.float().clone()
            merge_low_rank(
                full, down.float(), up.float(), config.alpha / config.rank,
                None if magnitude is None else magnitude.float(),
            )  # fmt: skip
            value = full.to(value.dtype)
        merged[f"{layer}.{rest}"] = value
    return merged


def _stored(layer: str, part: str) -> str:
    return f"{layer}.lora_{part}.{_ADAPTER}.weight"


def save_adapter(
    folder: Path, state: Mapping[str, Tensor], trained: set[str], config: LoraConfig, base: Path
) -> None:
    """Write everything that was trained as an adapter folder; see ``vila_hd.adapters``.

    Args:
        folder: created; its contents are replaced.
        state: whole weights of the model with adapters.
        trained: names of the weights that were trained.
        config: the adapters' settings.
        base: the model that was started from.

    Raises:
        VilaHDError: a trained weight is not in ``state``.
    """
    from safetensors.torch import save_file

    missing = sorted(trained - set(state))
    if missing:
        raise VilaHDError(f"{folder}: trained weights are missing from what is saved: {missing[:4]}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    low_rank = {
        PREFIX + name.replace(f".{_ADAPTER}", "").replace("_vector.weight", "_vector"): state[name]
        for name in trained
        if ".lora_" in name
    }
    whole = {name: state[name] for name in trained if ".lora_" not in name}
    layers = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in low_rank}
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        BASE: str(base.resolve()) if base.exists() else str(base),
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(layers),
        "use_dora": config.dora,
        "bias": "none",
        "inference_mode": True,
    }
    save_file({name: value.contiguous() for name, value in low_rank.items()}, folder / ADAPTER_WEIGHTS)
    if whole:
        save_file({name: value.contiguous() for name, value in whole.items()}, folder / TRAINED_WEIGHTS)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
