"""The published config files <-> ours.

What the published files say and ours have no place for is kept in ``config.published``, so that it can be
written back. What ours say and the published ones cannot is written under the key ``vila_hd``, which the
published code drops when it reads the file.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.ps3.checkpoint import fill_from_shapes
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor, ResizeMode
from vila_hd.ps3.plans import Rounding

from .folders import VILA_HD_TYPE
from .look_settings import LOOK_MODES

EXTRAS = "vila_hd"
"""Key of the published config.json under which our own settings are kept."""

ASPECT_MODES: Mapping[str | None, ResizeMode] = {
    "resize": "squash",
    "default": "squash",
    None: "squash",
    "pad": "pad",
}
"""``image_aspect_ratio`` -> our resize mode. The first two differ only for other towers. (Differs from the
reference: without a value it fails.)"""

TILED = ("dynamic", "dynamic_s2")

FIXED: Mapping[str, tuple[Any, ...]] = {
    "mm_use_im_start_end": (None, False),
    "mm_use_im_patch_token": (None, False),
    "mm_vision_select_feature": (None, "cls_patch"),
    "s2": (None, False),
    "dynamic_s2": (None, False),
}
"""Keys with one meaning in a VILA-HD model; others fail in the published code or break its counts."""

DERIVED = (
    "_attn_implementation_autoset", "_name_or_path", "architectures", "hidden_size", "llm_cfg",
    "mm_hidden_size", "mm_low_res_token_num", "mm_projector_cfg", "mm_scale_num", "model_dtype", "model_type",
    "resume_path", "torch_dtype", "transformers_version", "vision_tower_cfg", EXTRAS,
)  # fmt: skip
"""Keys of the published config.json that follow from the rest of the folder."""

LARGEST = 2**31 - 1
"""No size in a config is larger; keeps absurd values away from anything that allocates or loops."""

MOST_SCALES = 16
LARGEST_SCALE = 2**16


def require_sane(values: Any, where: str) -> None:
    """Pass when no number in a config, however deep, is absurd.

    Raises:
        VilaHDError: one is; names it.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            require_sane(value, f"{where}.{key}")
    elif isinstance(values, list):
        for value in values:
            require_sane(value, where)
    elif where.endswith("model_max_length"):
        return  # tokenizers say "no limit" with 10 ** 30; nothing is sized by it
    elif isinstance(values, int | float) and not abs(values) <= LARGEST:
        raise VilaHDError(f"{where}={values}: no model is that large; get the file again")


def read_vision_config(
    values: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    pixels: PS3ImageProcessor,
    *,
    budget_rounding: Rounding | None,
    num_attention_heads: int | None,
) -> PS3VisionConfig:
    """The tower's config, completed from the shapes of its tensors.

    Args:
        values: ``vision_tower/config.json``.
        shapes: of the tensors there.
        pixels: the tower's image processor, which knows mean and deviation.
        budget_rounding: see ``load_checkpoint``; None: as the file says, else as the newest PS3 source.
        num_attention_heads: for trunks with a name that is not known.

    Raises:
        VilaHDError: values that describe no tower, or too few.
    """
    known = {field.name for field in dataclasses.fields(PS3VisionConfig)} | {"s3_scales"}
    kept = {
        key: value for key, value in values.items() if key in known and key not in ("dtype", "architectures")
    }
    scales = kept.get("ps3_scales", kept.get("s3_scales"))
    _check_scales(scales)
    if "ps3_scales" in kept:
        kept.pop("s3_scales", None)
    else:
        kept["ps3_scales"] = kept.pop("s3_scales", list(PS3VisionConfig.ps3_scales))
    require_sizes("vision_tower", kept, shapes.values())
    kept.update(image_mean=list(pixels.mean), image_std=list(pixels.std))
    if budget_rounding is not None:
        kept["budget_rounding"] = budget_rounding
    if num_attention_heads is not None:
        kept["num_attention_heads"] = num_attention_heads
    config = PS3VisionConfig(**kept)
    fill_from_shapes(config, shapes)
    if config.num_attention_heads is None:
        raise VilaHDError(
            f"vision_tower: model_name={config.model_name!r} does not tell the number of attention heads; "
            "pass "
            "num_attention_heads=, or add it to vision_tower/config.json"
        )
    config.require_trunk_sizes()
    split = config.patches_per_pass
    if sum(split) < 1 or min(split) < 0:
        raise VilaHDError(
            f"vision_tower: max_select_num={config.max_select_num} leaves {list(split)} patches per pass; "
            "use more"
        )
    return config


COUNTS = (
    "num_hidden_layers", "num_experts", "num_local_experts", "highres_selection_module_depth",
    "radio_adapter_mlp_num_inner",
)  # fmt: skip
"""Keys that say how often something is there; each has a tensor of its own."""

SIZES = (
    "hidden_size", "intermediate_size", "head_dim", "num_attention_heads", "num_key_value_heads",
    "highres_selection_module_hidden_dim", "highres_selection_module_out_dim",
    "radio_adapter_mlp_input_dim", "radio_adapter_mlp_hidden_dim", "radio_adapter_mlp_output_dim",
)  # fmt: skip
"""Keys that say how large a tensor is; some tensor has a side of at least that."""


def require_sizes(component: str, values: Mapping[str, Any], shapes: Collection[Sequence[int]]) -> None:
    """Pass when a component is not larger than its tensors, so that its skeleton can be built.

    Raises:
        VilaHDError: it is; names the key and both numbers.
    """
    largest = max((side for shape in shapes for side in shape), default=0)
    listed = values.get("select_based_on_layer")
    counts = {name: values.get(name) for name in COUNTS}
    counts["len(select_based_on_layer)"] = len(listed) if isinstance(listed, list) else None
    for name, value in counts.items():
        if isinstance(value, int | float) and value > len(shapes):
            raise VilaHDError(f"{component}: {name}={value}, but it has only {len(shapes)} tensors")
    for name in SIZES:
        value = values.get(name)
        if isinstance(value, int | float) and value > largest:
            raise VilaHDError(
                f"{component}: {name}={value}, but the largest side of its tensors is {largest}"
            )


def require_projector(kind: Any, num_tensors: int) -> None:
    """Pass when a projector is not deeper than its tensors allow.

    Raises:
        VilaHDError: it is, or ``kind`` is no text.
    """
    if not isinstance(kind, str):
        raise VilaHDError(f"mm_projector: mm_projector_type={kind!r}: get the config.json again")
    depth = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if depth and (len(depth[1]) > 6 or int(depth[1]) > num_tensors):
        raise VilaHDError(
            f"mm_projector: mm_projector_type={kind[:40]!r}, but there are only {num_tensors} tensors"
        )


def require_picture_size(sides: Sequence[int]) -> None:
    """Pass when pictures of these sides fit into memory.

    Raises:
        VilaHDError: they do not.
    """
    if max(sides) > LARGEST_SCALE:
        raise VilaHDError(
            f"vision_tower: image_size={list(sides)}: use sides of at most {LARGEST_SCALE} pixels"
        )


def _check_scales(scales: Any) -> None:
    if scales is None:
        return
    good = isinstance(scales, list) and 2 <= len(scales) <= MOST_SCALES
    if not good or not all(isinstance(side, int) and 0 < side <= LARGEST_SCALE for side in scales):
        raise VilaHDError(
            f"vision_tower: ps3_scales={str(scales)[:80]}: use 2 to {MOST_SCALES} sides of at most "
            f"{LARGEST_SCALE} pixels"
        )


def read_config(
    top: Mapping[str, Any],
    projector: Mapping[str, Any],
    vision: PS3VisionConfig,
    text: Any,
    *,
    head_stored: bool,
    lm_head_bias: bool,
) -> VilaHDConfig:
    """Our config of a published model; ids of tokens are filled in by the caller, who knows the tokenizer.

    Args:
        top: the top-level config.json.
        projector: ``mm_projector/config.json``.
        vision: the tower's config.
        text: the language model's config.
        head_stored: whether the weights hold a prompt head.
        lm_head_bias: whether they hold a bias of the output layer.

    Raises:
        VilaHDError: a key has a value that no VILA-HD model can have.
    """
    for key, allowed in FIXED.items():
        if top.get(key) not in allowed:
            raise VilaHDError(
                f"config.json: {key}={top[key]!r} is not supported with a PS3 tower; use {allowed[-1]!r}"
            )
    mode: Any = top.get("look_close_mode")
    if mode not in LOOK_MODES:
        raise VilaHDError(f"config.json: look_close_mode={mode!r}: use one of {', '.join(LOOK_MODES)}")
    layer = -1 if top.get("mm_vision_select_layer") is None else top["mm_vision_select_layer"]
    if layer not in (-1, -2) or isinstance(layer, bool):
        raise VilaHDError(
            f"config.json: mm_vision_select_layer={layer!r}: use -1 or -2, as the published tower does"
        )
    head = top.get("top_down_prompt_head_type", "linear")
    if head not in ("linear", "mlp"):
        raise VilaHDError(f"config.json: top_down_prompt_head_type={head!r}: use linear or mlp")
    extras = top.get(EXTRAS, {})
    if not isinstance(extras, Mapping):
        raise VilaHDError(f"config.json: {EXTRAS} is a {type(extras).__name__}, not an object")
    values: dict[str, Any] = {
        "projector_type": projector.get("mm_projector_type"),
        "select_layer": layer,
        "prompt_head": head if head_stored or mode == "after_prompt" else None,
        "high_res_position": bool(top.get("high_res_pos_embed", False)),
        "default_budget": read_budget(top, vision),
        "default_guide": LOOK_MODES[mode],
        "cell_rule": "published",
        "lm_head_bias": lm_head_bias,
    }
    values.update({key: value for key, value in extras.items() if key in OUR_KEYS})
    kept = {key: value for key, value in top.items() if key not in DERIVED}
    depth = vision.num_hidden_layers or 0
    if not isinstance(values["select_layer"], int) or not -depth <= values["select_layer"] < depth:
        raise VilaHDError(
            f"config.json: select_layer={values['select_layer']!r}: the tower has {depth} blocks"
        )
    return VilaHDConfig(vision_config=vision, text_config=text, published=kept, **values)


OUR_KEYS = ("select_layer", "default_budget", "default_guide", "cell_rule", "prompt_end_ids")
"""Fields of ``VilaHDConfig`` that the published keys cannot always express."""


def read_budget(top: Mapping[str, Any], vision: PS3VisionConfig) -> int | None:
    """High-resolution patches per picture by default; None: one full pass.

    ``num_token_look_close`` wins over ``num_look_close`` where it is set. (Differs from the reference: 0 and
    ``"all"`` work for both.)

    Raises:
        VilaHDError: a value that is no count.
    """
    num_patches, num_passes = top.get("num_token_look_close"), top.get("num_look_close", 1)
    for key, value in (("num_token_look_close", num_patches), ("num_look_close", num_passes)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not (value is None or value == "all" or whole):
            raise VilaHDError(f"config.json: {key}={value!r}: use a whole number >= 0, 'all' or null")
    everything = sum((scale // vision.patch_size) ** 2 for scale in vision.ps3_scales[1:])
    if num_patches is not None:
        return everything if num_patches == "all" else cast(int, num_patches)
    if num_passes == "all":
        return everything
    if num_passes in (None, 1):
        return None
    return cast(int, num_passes) * sum(vision.patches_per_pass)


def read_encoder(top: Mapping[str, Any]) -> str:
    """Text that closes the visual tokens of each picture, from ``image_encoder`` (JSON text or an object).

    Raises:
        VilaHDError: another encoder, or one that also puts text before a picture.
    """
    value = top.get("image_encoder")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise VilaHDError(
                f"config.json: image_encoder={value[:80]!r} is no JSON; get it again"
            ) from error
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise VilaHDError(
            f"config.json: image_encoder is a {type(value).__name__}; use an object or its JSON"
        )
    target = str(value.get("_target_", "BasicImageEncoder"))
    if target.rpartition(".")[2] != "BasicImageEncoder":
        raise VilaHDError(f"config.json: image_encoder {target[:80]!r}: only BasicImageEncoder is supported")
    if value.get("start_tokens"):
        raise VilaHDError(
            f"config.json: image_encoder.start_tokens={str(value['start_tokens'])[:40]!r} is not supported; "
            "use null"
        )
    end = value.get("end_tokens", "\n")
    if end is not None and not isinstance(end, str):
        raise VilaHDError(f"config.json: image_encoder.end_tokens={end!r}: use a text or null")
    return end or ""


def read_resize_mode(top: Mapping[str, Any]) -> ResizeMode:
    """How pictures reach the tower's square.

    Raises:
        VilaHDError: by cutting them into tiles, or a value that is no text.
    """
    mode = top.get("image_aspect_ratio")
    if mode in TILED:
        raise VilaHDError(
            f"config.json: image_aspect_ratio={mode!r} cuts pictures into tiles, which a PS3 tower does not "
            "take; use 'resize'"
        )
    if not (mode is None or isinstance(mode, str)):
        raise VilaHDError(f"config.json: image_aspect_ratio={mode!r}: use 'resize', 'pad' or 'default'")
    return ASPECT_MODES.get(mode, "squash")


def write_config(
    config: VilaHDConfig, image_end_text: str, resize_mode: ResizeMode, interpolation: str
) -> dict[str, Any]:
    """The top-level published keys of our model, without those that name a place or embed a component.

    Raises:
        VilaHDError: the published code cannot run such a model; says why.
    """
    vision = config.vision_config
    kept = dict(getattr(config, "published", None) or {})
    top: dict[str, Any] = {**PUBLISHED_DEFAULTS, **kept}
    top.update(
        architectures=["LlavaTopDownLlamaModel"],
        model_type=VILA_HD_TYPE,
        ps3=True,
        hidden_size=config.text_config.hidden_size,
        mm_hidden_size=vision.hidden_size,
        mm_low_res_token_num=config.low_res_grid**2,
        mm_scale_num=len(vision.ps3_scales),
        mm_vision_select_layer=config.select_layer if config.select_layer in (-1, -2) else -2,
        look_close_mode="after_prompt" if config.default_guide == "prompt" else "after_image",
        high_res_pos_embed=config.high_res_position,
    )
    if config.prompt_head is not None:
        top["top_down_prompt_head_type"] = config.prompt_head
    if read_budget(top, vision) != config.default_budget:
        top.update(_write_budget(config.default_budget, vision))
    if read_encoder(top) != image_end_text:
        encoder = {"_target_": "llava.model.encoders.BasicImageEncoder", "end_tokens": image_end_text or None}
        top["image_encoder"] = json.dumps(encoder)
    aspect = top.get("image_aspect_ratio")
    if aspect in TILED or ASPECT_MODES.get(aspect, "squash") != resize_mode:
        top["image_aspect_ratio"] = aspect = "pad" if resize_mode == "pad" else "resize"
    if aspect == "resize" and interpolation != "bicubic":
        top["image_aspect_ratio"] = "default"  # leaves the resize to the tower's processor
    return top


PUBLISHED_DEFAULTS: Mapping[str, Any] = {
    "fps": 0.0,
    "image_aspect_ratio": "resize",
    "image_encoder": '{"_target_": "llava.model.encoders.BasicImageEncoder"}',
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "cls_patch",
    "num_look_close": 1,
    "num_token_look_close": None,
    "num_video_frames": 8,
    "ps3_dynamic_aspect_ratio": False,
    "top_down_prompt_head_type": "linear",
    "video_encoder": '{"_target_": "llava.model.encoders.BasicVideoEncoder"}',
}
"""What a model that never was a published one says where its config has no say."""


def _write_budget(budget: int | None, vision: PS3VisionConfig) -> dict[str, Any]:
    per_pass = sum(vision.patches_per_pass)
    if budget is None:
        return {"num_look_close": 1, "num_token_look_close": None}
    if budget and budget % per_pass == 0:
        return {"num_look_close": budget // per_pass, "num_token_look_close": None}
    return {"num_look_close": 1, "num_token_look_close": budget}
