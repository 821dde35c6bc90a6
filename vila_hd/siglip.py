"""A plain SigLIP vision tower as the trunk of a fresh PS3 tower: the names and shapes of its tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .errors import VilaHDError
from .ps3.configuration_ps3 import PS3VisionConfig

_BLOCK_NAMES = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_OTHER_NAMES = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "post_layernorm": "norm",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}


def ps3_config_from_siglip(
    config: PreTrainedConfig, *, scales: Sequence[int] | None = None, **changes: Any
) -> PS3VisionConfig:
    """Configuration of a PS3 tower around a SigLIP trunk.

    Args:
        config: a ``SiglipVisionConfig``.
        scales: longest side per scale in pixels; None: the trunk's own size, twice and four times that.
        **changes: other fields of ``PS3VisionConfig``.
    """
    patch, grid, depth = config.patch_size, config.image_size // config.patch_size, config.num_hidden_layers
    low = grid * patch
    values: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": depth,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "patch_size": patch,
        "position_grid_size": grid,
        "layer_norm_eps": config.layer_norm_eps,
        "ps3_scales": list(scales or (low, 2 * low, 4 * low)),
        "select_based_on_layer": sorted({0, depth // 3, 2 * depth // 3, depth - 1}),
        # A fresh tower has no aliased features to stay compatible with.
        "resample": "antialias",
        "residual_grid_size": grid,
    }
    return PS3VisionConfig(**{**values, **changes})


def trunk_tensors_from_siglip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a ``SiglipVisionModel`` under the names of a PS3 trunk.

    Raises:
        VilaHDError: a tensor is of no known name.
    """
    renamed: dict[str, Tensor] = {}
    merged: dict[str, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name = full_name.removeprefix("vision_model.")
        stem, _, kind = name.rpartition(".")
        if name == "embeddings.position_embedding.weight":
            renamed["pos_embed"] = value[None]
        elif name == "head.probe":
            renamed["attn_pool.latent"] = value
        elif name.startswith("head.attention.in_proj_"):
            kind = name.removeprefix("head.attention.in_proj_")
            width = len(value) // 3
            renamed[f"attn_pool.q.{kind}"], renamed[f"attn_pool.kv.{kind}"] = value[:width], value[width:]
        elif stem in _OTHER_NAMES:
            renamed[f"{_OTHER_NAMES[stem]}.{kind}"] = value
        elif name.startswith("encoder.layers."):
            number, _, part = name.removeprefix("encoder.layers.").partition(".")
            part = part.rpartition(".")[0]
            if part in _BLOCK_NAMES:
                renamed[f"blocks.{number}.{_BLOCK_NAMES[part]}.{kind}"] = value
            else:
                merged.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[part] = value
        else:
            raise VilaHDError(f"tensor {full_name} belongs to no part of a SigLIP vision tower")
    order = [f"self_attn.{letter}_proj" for letter in "qkv"]
    for name, parts in merged.items():
        if set(parts) != set(order):
            raise VilaHDError(f"{name} would be made of {sorted(parts)}, expected {order}")
        renamed[name] = torch.cat([parts[part] for part in order])
    return renamed
