"""The language model's config as transformers of the published models' age (4.4x) wrote it."""

from typing import Any

from transformers import PreTrainedConfig, __version__
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from vila_hd.errors import VilaHDError

_DROPPED = (
    "dtype",
    "rope_parameters",
    "layer_types",
    "transformers_version",
    "_name_or_path",
    "architectures",
)


def base_prefix_of(config: PreTrainedConfig) -> str:
    """What the causal language model of this config calls its body.

    Raises:
        VilaHDError: there is no such model.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise VilaHDError(f"llm: a {config.model_type!r} model is no causal language model")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].base_model_prefix


def write_llm_config(config: PreTrainedConfig, *, vocab_size: int, dtype: str) -> dict[str, Any]:
    """``llm/config.json``: the rotary base and the dtype have the names of that age.

    Args:
        config: the language model's.
        vocab_size: rows of the embedding table in the file.
        dtype: such as ``bfloat16``.

    Raises:
        VilaHDError: position settings that differ between layers, which that age did not have.
    """
    values = config.to_dict()
    rope = values.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise VilaHDError(
            f"llm: rope_parameters={rope} differ between layers, which the published code cannot read"
        )
    kept = {key: value for key, value in values.items() if key not in _DROPPED}
    if rope:
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        kept["rope_theta"] = rope.get("rope_theta", 10000.0)
        kept["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    kept.update(
        architectures=[architecture if isinstance(architecture, str) else architecture[0]],
        torch_dtype=dtype,
        vocab_size=vocab_size,
        transformers_version=__version__,
    )
    return dict(sorted(kept.items()))
