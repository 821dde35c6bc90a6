"""Checkpoints to folders: the published VILA-HD layout, ours, or the tower alone as a PS3 folder."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, __version__

from vila_hd.errors import VilaHDError
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
from vila_hd.remote_code import add_remote_code

from .checkpoint import Checkpoint, ReadOptions, assemble, embedding_names, skeleton
from .config_map import EXTRAS, OUR_KEYS, write_config
from .folders import COMPONENTS, PublishedFolder
from .key_maps import to_published
from .llm_config import base_prefix_of, write_llm_config
from .tensors import SHARD_BYTES, LazyTensor, with_rows, write_folder
from .tokenizer_files import write_tokenizer

Stored = Mapping[str, Mapping[str, LazyTensor]]
"""Folder, relative to the model's -> stored name -> tensor."""

Progress = Callable[[int], object]
"""Called with the bytes of each tensor that was written."""

SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304,
          "patch_size": 14, "position_grid_size": 27}  # fmt: skip
SO400M_NAME = "vit_so400m_patch14_siglip_384"
"""The published name of the trunk with these sizes."""

REFERENCE_VIEW = 1512
"""Side in pixels of the view that the published selector's convolutional branch sees."""


def nothing(size: int) -> None:
    """No progress is shown."""


def prepare_published(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: torch.dtype | None = None,
    *,
    name: str,
    extensions: bool = False,
) -> Stored:
    """Write everything of the published layout but the weights into ``folder``, which exists and is empty.

    Args:
        checkpoint: what to write.
        folder: where to.
        dtype: of the weights; None: as they are.
        name: what the folder will be called.
        extensions: also write models that only this package can run from that layout.

    Returns:
        The weights that ``write_weights`` shall write.

    Raises:
        VilaHDError: the published code could not run the model, and ``extensions`` is not set; says why.
    """
    gaps = find_gaps(checkpoint)
    if gaps and not extensions:
        raise VilaHDError(
            f"{checkpoint.label}: the published code cannot run this model: {'; '.join(gaps)}; allow it with "
            "extensions=True (--extensions), for use with this package alone"
        )
    for component in COMPONENTS:
        (folder / component).mkdir()
    stored, top = _write_small_files(checkpoint, folder, dtype or checkpoint.stored_dtype)
    # The published code refuses to go on from a folder whose resume_path is empty.
    top["resume_path"] = name
    top[EXTRAS] = _find_extras(checkpoint, folder, top, stored)
    if not top[EXTRAS]:
        del top[EXTRAS]
    write_json(folder / "config.json", top)
    _check_identity(checkpoint, folder, top, stored)
    _copy_documents(checkpoint, folder)
    return stored


def write_weights(
    folder: Path,
    stored: Stored,
    dtype: torch.dtype | None = None,
    progress: Progress = nothing,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the weights of a folder that was prepared, one tensor at a time.

    Args:
        folder: the one that was prepared.
        stored: what preparing it returned.
        dtype: as given there.
        progress: see there.
        shard_bytes: of one weight file.
    """
    for place, tensors in stored.items():
        write_folder(folder / place, tensors, dtype, progress, shard_bytes=shard_bytes)


def _write_small_files(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype
) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, Any]]:
    """``(tensors by component folder and name, top-level config)``; everything but weights is written."""
    config, processor = checkpoint.config, checkpoint.processor
    pixels = processor.image_processor
    added = write_tokenizer(folder / "llm", processor.tokenizer, processor.chat_template)
    rows = max(config.text_config.vocab_size, len(processor.tokenizer) + len(added.tokens))
    kind = str(dtype).removeprefix("torch.")
    configs = {
        "llm": write_llm_config(config.text_config, vocab_size=rows, dtype=kind),
        "vision_tower": write_vision_config(config.vision_config, kind),
        "mm_projector": {
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": config.projector_type,
            "model_type": "v2l_projector",
            "torch_dtype": kind,
            "transformers_version": __version__,
        },
    }
    top = write_config(config, processor.image_end_text, pixels.resize_mode, pixels.interpolation)
    for name, values in configs.items():
        write_json(folder / name / "config.json", values)
        top[f"{name}_cfg"] = values
    top.update(model_dtype=f"torch.{kind}", transformers_version=__version__)
    if added.tokens:
        top[EXTRAS] = {"added": added.to_dict()}
    generation: dict[str, Any] = {"transformers_version": __version__}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        generation[key] = getattr(checkpoint.generation_config, key)
    write_json(folder / "llm" / "generation_config.json", generation)
    write_json(folder / "vision_tower" / "preprocessor_config.json", write_pixels(pixels))
    return _name_tensors(checkpoint, rows), top


def _name_tensors(checkpoint: Checkpoint, rows: int) -> dict[str, dict[str, LazyTensor]]:
    prefix = base_prefix_of(checkpoint.config.text_config)
    resized = set(embedding_names(skeleton(checkpoint.config)))
    stored: dict[str, dict[str, LazyTensor]] = {name: {} for name in COMPONENTS}
    for name, tensor in checkpoint.tensors.items():
        component, target = to_published(name, base_prefix=prefix)
        stored[component][target] = with_rows(tensor, rows) if name in resized else tensor
    return stored


def write_vision_config(config: PS3VisionConfig, dtype: str) -> dict[str, Any]:
    """``config.json`` of a PS3 folder that holds the vision tower alone."""
    own = {field.name for field in dataclasses.fields(PS3VisionConfig)}
    own -= {field.name for field in dataclasses.fields(PreTrainedConfig)}
    values = {key: value for key, value in config.to_dict().items() if key in own}
    values.update(
        architectures=["PS3VisionModel"],
        model_type=PS3VisionConfig.model_type,
        model_name=trunk_name(config),
        vision_tower_name=trunk_name(config),
        torch_dtype=dtype,
        transformers_version=__version__,
    )
    return dict(sorted(values.items()))


def trunk_name(config: PS3VisionConfig) -> str | None:
    """The name by which the published code builds the trunk."""
    if config.model_name is not None:
        return config.model_name
    sizes = {name: getattr(config, name) for name in SO400M}
    return SO400M_NAME if sizes == SO400M and not config.radio else None


def write_pixels(pixels: PS3ImageProcessor) -> dict[str, Any]:
    """``preprocessor_config.json`` as the published image processor saves it."""
    side = pixels.image_size[0]
    return {
        "crop_size": {"height": side, "width": side},
        "image_mean": list(pixels.mean),
        "image_processor_type": "PS3ImageProcessor",
        "image_size": list(pixels.image_size),
        "image_std": list(pixels.std),
        "interpolation": pixels.interpolation,
        "mean": list(pixels.mean),
        "resize_mode": "squash",
        "size": {"shortest_edge": side},
        "std": list(pixels.std),
    }


def find_gaps(checkpoint: Checkpoint) -> list[str]:
    """What the published code cannot do that this model needs; empty when it gives the same answers."""
    config, vision = checkpoint.config, checkpoint.config.vision_config
    if not vision.chooses:
        raise VilaHDError(
            f"{checkpoint.label}: the published layout knows PS3 towers only, this one is {vision.model_type}"
        )
    gaps = find_tower_gaps(vision)
    if config.downsample == 1:
        gaps.append(f"its projector {config.projector_type!r} keeps every patch")
    if _normal_layer(config.select_layer, vision) not in (-1, -2):
        gaps.append(f"it reads block {config.select_layer} of the tower (published: -1 or -2)")
    if checkpoint.processor.image_processor.resize_mode == "fit":
        gaps.append("its pictures keep their aspect ratio (resize_mode 'fit'; published: squares)")
    uneven = [s for s in vision.ps3_scales[1:] if s // vision.patch_size % config.downsample]
    if config.cell_rule == "whole" and uneven:
        gaps.append(f"cell_rule 'whole' on the scales {uneven}")
    if config.default_budget == 0:
        gaps.append("its default budget is 0")
    return gaps


def find_tower_gaps(vision: PS3VisionConfig) -> list[str]:
    """As ``find_gaps``, for the tower alone."""
    gaps = []
    if trunk_name(vision) is None:
        gaps.append("its trunk has no published name (model_name)")
    if vision.resample != "bicubic":
        gaps.append(f"it resizes with {vision.resample!r}")
    if not vision.reads_low_res:
        gaps.append("its high-resolution patches do not read the low-resolution tokens")
    if vision.separate_pos_emb and vision.residual_grid_size is not None:
        gaps.append(f"its position tables are coarse (residual_grid_size={vision.residual_grid_size})")
    if vision.highres_selection_feature and vision.selection_image_size != REFERENCE_VIEW:
        gaps.append(f"its selector sees {vision.selection_image_size} pixels (published: {REFERENCE_VIEW})")
    if vision.layer_norm_eps != 1e-6:
        gaps.append(f"layer_norm_eps={vision.layer_norm_eps}")
    return gaps


def _normal_layer(layer: int, vision: PS3VisionConfig) -> int:
    return layer if layer < 0 else layer - (vision.num_hidden_layers or 0)


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the published keys may not be able to express."""
    config, processor = checkpoint.config, checkpoint.processor
    said = checkpoint.generation_config.to_diff_dict()
    generation = {
        key: value for key, value in said.items() if not key.startswith("_") and key != "transformers_version"
    }
    return {
        **{key: getattr(config, key) for key in OUR_KEYS},
        "chat_template": processor.chat_template,
        "generation_config": generation,
        "resize_mode": processor.image_processor.resize_mode,
        "vocab_rows": config.text_config.vocab_size,
    }


def _find_extras(
    checkpoint: Checkpoint,
    folder: Path,
    top: Mapping[str, Any],
    stored: Mapping[str, Mapping[str, LazyTensor]],
) -> dict[str, Any]:
    """Settings that reading the folder back would get wrong."""
    extras: dict[str, Any] = dict(top.get(EXTRAS, {}))
    rows = checkpoint.config.text_config.vocab_size
    if extras or rows != len(checkpoint.processor.tokenizer):
        extras["vocab_rows"] = rows
    written = PublishedFolder(folder, top)
    derived = settings_of(assemble(written, {**top, EXTRAS: extras}, stored, ReadOptions()))
    for key, value in settings_of(checkpoint).items():
        if derived[key] != value:
            extras[key] = value
    return extras


def _check_identity(
    checkpoint: Checkpoint,
    folder: Path,
    top: Mapping[str, Any],
    stored: Mapping[str, Mapping[str, LazyTensor]],
) -> None:
    """Pass when reading the folder back gives this checkpoint.

    Raises:
        VilaHDError: something cannot be expressed; names it.
    """
    again = assemble(PublishedFolder(folder, top), top, stored, ReadOptions())
    ours, theirs = comparable(checkpoint), comparable(again)
    wrong = sorted(key for key in ours if ours[key] != theirs.get(key))
    if wrong:
        raise VilaHDError(
            f"{checkpoint.label}: {', '.join(wrong)} cannot be written in the published layout "
            f"({wrong[0]} is {str(ours[wrong[0]])[:60]}, read back as {str(theirs.get(wrong[0]))[:60]})"
        )


def comparable(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything about a checkpoint but its weights and where it lies, flat."""
    config, processor = checkpoint.config, checkpoint.processor
    values: dict[str, Any] = settings_of(checkpoint)
    for part, sub in (("vision", config.vision_config), ("text", config.text_config)):
        for key, value in sub.to_dict().items():
            if key not in _VOLATILE and not (key in _FROM_SHAPES and value is None):
                values[f"{part}.{key}"] = value
    for key in ("projector_type", "prompt_head", "high_res_position", "image_token_id", "lm_head_bias"):
        values[key] = getattr(config, key)
    for key in ("low_res_tokens", "scales", "patches_per_pass", "image_end_text"):
        values[f"processor.{key}"] = getattr(processor, key)
    for key in ("image_size", "mean", "std", "interpolation", "do_normalize"):
        values[f"pixels.{key}"] = getattr(processor.image_processor, key)
    values["tokenizer.vocabulary"] = processor.tokenizer.get_vocab()
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "padding_side"):
        values[f"tokenizer.{key}"] = getattr(processor.tokenizer, key)
    return values


_FROM_SHAPES = ("num_hidden_layers", "intermediate_size", "position_grid_size")
"""Sizes that a config may leave to the shapes of the tensors."""

_VOLATILE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
    "model_name",
    "vision_tower_name",
    "name_or_path",
)


def prepare_ours(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None) -> Stored:
    """As ``prepare_published``, for our own layout, which ``vila_hd.load`` reads."""
    config = copy.deepcopy(checkpoint.config)
    config.architectures = ["VilaHDForConditionalGeneration"]
    for part in (config, config.vision_config, config.text_config):
        part.dtype = dtype or checkpoint.stored_dtype
    config.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
    checkpoint.generation_config.save_pretrained(folder)
    _copy_documents(checkpoint, folder)
    add_remote_code(folder)
    return {".": checkpoint.tensors}


def prepare_tower(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None, *, extensions: bool = False
) -> Stored:
    """As ``prepare_published``, for the vision tower alone as a PS3 folder."""
    vision = checkpoint.config.vision_config
    gaps = find_tower_gaps(vision)
    if gaps and not extensions:
        raise VilaHDError(
            f"{checkpoint.label}: the published code cannot run this tower: {'; '.join(gaps)}; allow it with "
            "extensions=True (--extensions), for use with this package alone"
        )
    kind = str(dtype or checkpoint.stored_dtype).removeprefix("torch.")
    write_json(folder / "config.json", write_vision_config(vision, kind))
    write_json(folder / "preprocessor_config.json", write_pixels(checkpoint.processor.image_processor))
    _copy_documents(checkpoint, folder)
    named = ((to_published(name), tensor) for name, tensor in checkpoint.tensors.items())
    return {".": {name: tensor for (component, name), tensor in named if component == "vision_tower"}}


def _copy_documents(checkpoint: Checkpoint, folder: Path) -> None:
    """Model card and licence go with the weights."""
    for path in checkpoint.documents:
        shutil.copyfile(path, folder / path.name)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object as config files look."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
