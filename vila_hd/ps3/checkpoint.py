"""What the tensors of a published folder tell about the model."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from ..errors import VilaHDError
from .configuration_ps3 import PS3VisionConfig

Shapes = dict[str, tuple[int, ...]]


def read_shapes(source: str, hub: Mapping[str, Any]) -> Shapes:
    """Return name -> shape of every tensor in the safetensors files of a folder or hub repository.

    Args:
        source: folder or repository name.
        hub: download arguments of transformers (``revision``, ``token``, ...).

    Raises:
        VilaHDError: there is no safetensors file, or one cannot be read.
    """
    shapes: Shapes = {}
    for file in _weight_files(source, hub):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a dict
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise VilaHDError(f"{file} cannot be read as safetensors ({error}): download it again") from error
    return shapes


def _weight_files(source: str, hub: Mapping[str, Any]) -> list[str]:
    def find(name: str) -> str | None:
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)

    if single := find("model.safetensors"):
        return [single]
    index = find("model.safetensors.index.json")
    if index is None:
        raise VilaHDError(f"{source}: no model.safetensors in it; only safetensors weights are loaded")
    names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    return [path for name in names if (path := find(name)) is not None]


def fill_from_shapes(config: PS3VisionConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Set the trunk sizes that the config leaves open, and those where the tensors know better."""
    prefix = "vision_model.trunk."
    blocks = {name[len(prefix) :].split(".")[1] for name in shapes if name.startswith(prefix + "blocks.")}
    if blocks and config.num_hidden_layers is None:
        config.num_hidden_layers = len(blocks)
    if config.intermediate_size is None and (shape := shapes.get(prefix + "blocks.0.mlp.fc1.weight")):
        config.intermediate_size = shape[0]
    if shape := shapes.get(prefix + "patch_embed.proj.weight"):
        config.patch_size = shape[-1]
    if shape := shapes.get(prefix + "pos_embed"):
        config.position_grid_size = math.isqrt(shape[1])
