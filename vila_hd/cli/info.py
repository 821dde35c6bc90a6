"""``vila-hd info``: what a model is made of and what its looks cost, from its small files alone."""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..adapters import base_of, describe_adapter, is_adapter
from ..checkpoint_files import TensorInfo, has_chat_template, read_json, read_tensors
from ..errors import VilaHDError
from ..formats import Headers, find_format
from ..options import HighResOptions
from ..utils.text import one_line
from .models import BUNDLED, quieten_transformers

if TYPE_CHECKING:
    from ..configuration_vila_hd import VilaHDConfig
    from ..processing_vila_hd import VilaHDProcessor

SIZE = (2160, 3840)
"""(height, width) in pixels of the picture whose cost is shown."""

SMALL_FILES = ["*.json", "*.jinja", "*.md", "*.model", "*.txt"]
"""Files of a hub repository that are fetched; the headers of its weight files are read where they are."""

ENCODERS = {
    "ps3_vision_model": "PS3: chooses patches",
    "vila_hd_low_res_vision": "low_res: the trunk alone (baseline)",
    "vila_hd_anyres_vision": "anyres: the picture and its tiles (baseline)",
    "vila_hd_s2_vision": "s2: several scales in one map (baseline)",
}
"""Kind of tower -> how it sees."""

COMPONENTS = {
    "model.vision_tower.": "vision tower",
    "model.projector.": "projector",
    "model.language_model.": "language model",
    "lm_head.": "language model",
}
"""Start of a tensor's name -> what it belongs to."""


def run(args: argparse.Namespace) -> int:
    """Print the facts, one per line."""
    quieten_transformers()
    facts = describe(read_model(args.model))
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        first, *more = _lines(value)
        print(f"{name:<{width}}  {first}")
        for line in more:
            print(f"{'':<{width}}  {line}")
    return 0


def _lines(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class ModelFacts:
    """A model without its weights."""

    folder: Path
    """At least its small files."""

    config: "VilaHDConfig"
    processor: "VilaHDProcessor"
    tensors: Mapping[str, TensorInfo]
    has_template: bool
    layout: str = "ours"


def read_model(name: str) -> ModelFacts:
    """The bundled model, a folder, or a hub repository; fetches no weights.

    Raises:
        VilaHDError: there is no such model, it is damaged, or it cannot be reached.
    """
    folder = BUNDLED if name == "nano" else Path(name).expanduser()
    if folder.is_dir():
        return _read_folder(folder, None)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise VilaHDError(f"{folder}: no such folder; use 'nano', a model folder or a hub id like owner/name")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, SafetensorsParsingError

    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=SMALL_FILES))
        headers = _fetch_headers(name)
    except (HfHubHTTPError, HFValidationError, SafetensorsParsingError, OSError) as error:
        reason = one_line(error)[:160]
        raise VilaHDError(f"{name}: neither a folder nor a readable model of the hub ({reason})") from error
    return _read_folder(folder, headers)


def _fetch_headers(name: str) -> Headers:
    """The headers of a hub repository's weight files, which are read where they are."""
    import huggingface_hub

    found: dict[str, dict[str, TensorInfo]] = {}
    for file in huggingface_hub.list_repo_files(name):
        if file.endswith(".safetensors"):
            header = huggingface_hub.parse_safetensors_file_metadata(name, file)
            found[file] = {
                key: TensorInfo(info.dtype, tuple(info.shape), file) for key, info in header.tensors.items()
            }
    return found


def _read_folder(folder: Path, headers: Headers | None) -> ModelFacts:
    if is_adapter(folder):
        base = read_model(base_of(folder))
        return replace(base, layout=f"{base.layout}, changed by {describe_adapter(folder)}")
    other = find_format(folder)
    if other is not None:
        config, processor, tensors = other.describe(folder, headers)
        return ModelFacts(folder, config, processor, tensors, has_template=True, layout=other.label)
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "vila_hd":
        raise VilaHDError(f"{folder}: model_type is {kind!r}, not 'vila_hd'; give a VILA-HD model's folder")
    if headers is None:
        tensors = read_tensors(folder)
    else:
        tensors = {key: info for part in headers.values() for key, info in part.items()}
    from ..configuration_vila_hd import VilaHDConfig
    from ..processing_vila_hd import VilaHDProcessor

    try:
        config = VilaHDConfig.from_pretrained(folder)
    except (TypeError, AttributeError, KeyError, OSError) as error:
        raise VilaHDError(f"{folder}/config.json: {' '.join(str(error).split())}") from error
    processor = VilaHDProcessor.from_pretrained(folder)
    return ModelFacts(folder, config, processor, tensors, has_chat_template(folder))


def describe(model: ModelFacts) -> dict[str, str | list[str]]:
    """Fact -> text or lines of text."""
    config, tensors = model.config, model.tensors
    vision, text = config.vision_config, config.text_config
    return {
        "model": str(model.folder),
        "layout": model.layout,
        "licence": _licence(model.folder),
        "language model": f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}, "
        f"vocabulary {text.vocab_size:,}",
        "encoder": ENCODERS.get(vision.model_type, vision.model_type),
        "vision tower": f"{vision.num_hidden_layers} layers of width {vision.hidden_size}, "
        f"patches of {vision.patch_size} x {vision.patch_size} px"
        + (f" ({vision.model_name})" if vision.model_name else ""),
        "scales": ", ".join(f"{scale:,}" for scale in vision.ps3_scales)
        + " px; the first is the low-res view",
        "projector": f"{config.projector_type}: {config.downsample} x {config.downsample} patches per token",
        "guided by": _guide(config),
        **(_costs if vision.chooses else _fixed_cost)(model.processor, config),
        "numbers": _parameters(tensors.items()),
        "stored as": ", ".join(sorted({info.dtype for info in tensors.values()})),
        "chat template": "present" if model.has_template else "none: this model cannot chat yet",
    }


def _guide(config: "VilaHDConfig") -> str:
    """What steers the choice of patches, in words."""
    if not config.vision_config.chooses:
        return "nothing: it sees whole pictures"
    return config.default_guide + ("" if config.prompt_head else "; has no prompt head")


def _fixed_cost(processor: "VilaHDProcessor", config: "VilaHDConfig") -> dict[str, list[str]]:
    """Visual tokens of a 4K picture for a tower that chooses nothing."""
    height, width = SIZE
    (count,) = processor.count_image_tokens([SIZE])
    tiles = f" + {count.high_res:,} of its tiles" if count.high_res else ""
    return {
        "visual tokens": [f"of a {width} x {height} picture: {count.low_res:,} of the whole picture{tiles}"]
    }


def _costs(processor: "VilaHDProcessor", config: "VilaHDConfig") -> dict[str, list[str]]:
    """Patches and visual tokens of a 4K picture at several budgets."""
    height, width = SIZE
    per_pass = sum(processor.patches_per_pass)
    default = per_pass if config.default_budget is None else config.default_budget
    split = zip(processor.patches_per_pass, config.high_scales, strict=True)
    lines = [f"of a {width} x {height} picture, up to:"]
    budgets: dict[str, int | Literal["auto", "all"]] = {
        "0": 0,
        f"auto ({default:,})": "auto",
        f"{2 * default:,}": 2 * default,
        "all": "all",
    }
    for label, budget in budgets.items():
        (count,) = processor.count_image_tokens([SIZE], HighResOptions(budget=budget))
        lines.append(f"budget {label}: {count.low_res:,} low-res + {count.high_res:,} high-res")
    return {
        "one pass": [", ".join(f"{patches:,} patches at {scale:,} px" for patches, scale in split)],
        "visual tokens": lines,
    }


def _parameters(tensors: Iterable[tuple[str, TensorInfo]]) -> str:
    """How many numbers each component holds."""
    counts: dict[str, int] = {}
    for name, info in tensors:
        component = next((c for start, c in COMPONENTS.items() if name.startswith(start)), "other")
        counts[component] = counts.get(component, 0) + info.num_elements
    parts = ", ".join(f"{component} {count:,}" for component, count in counts.items())
    return f"{sum(counts.values()):,} ({parts})"


def _licence(folder: Path) -> str:
    """The licence that the model card names; weights often have another licence than the code."""
    card = folder / "README.md"
    head = _front_matter(card.read_text(encoding="utf-8", errors="replace")) if card.exists() else {}
    licence = head.get("license_name") or head.get("license")
    if not licence:
        files = sorted(path.name for path in folder.glob("LICENSE*"))
        if files:
            return f"see {files[0]} in the folder (of the weights)"
        return "not stated in the folder; ask whoever published the weights"
    return f"{licence} (the weights, as its model card says)"


def _front_matter(text: str) -> Mapping[str, str]:
    """``key: value`` lines between the two ``---`` at the start of a model card."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    values: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return values
        key, colon, value = line.partition(":")
        if colon and not key.startswith((" ", "-", "#")):
            values[key.strip()] = value.strip().strip("'\"")
    return {}
