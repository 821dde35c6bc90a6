"""A checkpoint in parts: config, processor and lazily read tensors under our names, whatever layout they come
from. Loading and converting both start here."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from vila_hd.checkpoint_files import TOKENIZERS, read_json, require_intact
from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.constants import IMAGE_TOKEN
from vila_hd.errors import VilaHDError
from vila_hd.loading import read_parts
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.processing_vila_hd import VilaHDProcessor, add_pictures_to_template
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
from vila_hd.ps3.plans import Rounding
from vila_hd.utils.text import one_line

from .config_map import (
    EXTRAS,
    read_config,
    read_encoder,
    read_resize_mode,
    read_vision_config,
    require_picture_size,
    require_projector,
    require_sane,
    require_sizes,
)
from .folders import COMPONENTS, PublishedFolder
from .key_maps import to_ours
from .llm_config import base_prefix_of
from .tensors import LazyTensor, from_tensor, open_folder, with_rows
from .tokenizer_files import Added, find_stop_ids, max_length_of, read_template, read_tokenizer

BROKEN = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError,
    AssertionError, ImportError, OSError, MemoryError, StrictDataclassError,
)  # fmt: skip
"""What transformers and torch raise on config files that are valid JSON but not what they expect."""

DOCUMENTS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
"""Files that say what a model is and what may be done with it."""

SHOWN = 12
"""Tensors listed in a message before "and N more"."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the published files do not tell about themselves; see ``load_checkpoint``."""

    chat_template: str | None = None
    budget_rounding: Rounding | None = None
    num_attention_heads: int | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model before it takes memory."""

    label: str
    """Where it comes from, for messages."""

    config: VilaHDConfig
    processor: VilaHDProcessor
    generation_config: GenerationConfig
    tensors: Mapping[str, LazyTensor]
    """By the names of ``VilaHDForConditionalGeneration``, complete but for tied ones."""

    dropped: tuple[str, ...] = ()
    """Stored tensors that are not used, for reports."""

    documents: tuple[Path, ...] = ()
    """Model card and licence."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the language model's embeddings, which the whole model gets when nothing else is
        said."""
        return next(t.dtype for name, t in self.tensors.items() if name.startswith("model.language_model."))


def read_published(folder: PublishedFolder, options: ReadOptions) -> Checkpoint:
    """The checkpoint in a published folder that holds all components.

    Raises:
        VilaHDError: it is damaged, or describes no VILA-HD model; every unknown, missing or wrongly shaped
            tensor is named.
    """
    return assemble(folder, folder.config, open_components(folder), options)


def open_components(folder: PublishedFolder) -> dict[str, dict[str, LazyTensor]]:
    """The tensors of a published folder: component folder -> stored name -> tensor."""
    return {name: open_folder(folder.component(name), name) for name in COMPONENTS}


def assemble(
    folder: PublishedFolder,
    top: Mapping[str, Any],
    stored: Mapping[str, Mapping[str, LazyTensor]],
    options: ReadOptions,
) -> Checkpoint:
    """A checkpoint of the configs in ``folder`` and tensors by component folder and stored name.

    Args:
        folder: the component folders.
        top: the top-level config.json that counts.
        stored: component folder -> stored name -> tensor.
        options: see there.

    Raises:
        VilaHDError: see ``read_published``.
    """
    label = str(folder.root)
    require_sane(top, "config.json")
    try:
        text = _read_text_config(folder.component("llm"), stored["llm"])
        base_prefix = base_prefix_of(text)
        tokenizer, template, rows = _read_tokenizer(folder, top, stored["llm"], options)
        text.vocab_size = rows
        pixels = _read_pixels(folder.component("vision_tower"), top)
        config = _read_config(folder, top, stored, text, pixels, options)
        config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        processor = _make_processor(config, pixels, tokenizer, template, read_encoder(top))
        if "prompt_end_ids" not in top.get(EXTRAS, {}):
            config.prompt_end_ids = processor.find_prompt_end_ids()
        stops = find_stop_ids(tokenizer, template)
        generation = make_generation_config(tokenizer, stops)
        _apply_extras(top.get(EXTRAS) or {}, processor, generation)
        tensors, dropped = place(config, stored, base_prefix, label)
    except VilaHDError:
        raise
    except BROKEN as error:
        raise VilaHDError(
            f"{label}: its files describe no model ({first_line(error)}); get them again"
        ) from error
    return Checkpoint(
        label, config, processor, generation, tensors, dropped, documents=find_documents(folder.root)
    )


def _apply_extras(
    extras: Mapping[str, Any], processor: VilaHDProcessor, generation: GenerationConfig
) -> None:
    """Settings of ours that the published keys could not express; the config's are applied with it."""
    template, settings = extras.get("chat_template"), extras.get("generation_config")
    if isinstance(template, str):
        processor.chat_template = template
    if isinstance(settings, Mapping):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = settings.get(name)
            for number in ids if isinstance(ids, list) else [ids]:
                if not (number is None or (isinstance(number, int) and number >= 0)):
                    raise VilaHDError(
                        f"config.json: {EXTRAS}.generation_config.{name}={str(ids)[:60]}: use token ids"
                    )
        generation.__dict__.update(GenerationConfig(**settings).__dict__)


def find_documents(folder: Path) -> tuple[Path, ...]:
    """Model card and licence files of a model folder."""
    return tuple(path for name in DOCUMENTS if (path := folder / name).is_file())


def _read_text_config(folder: Path, tensors: Mapping[str, LazyTensor]) -> PreTrainedConfig:
    values = read_json(folder / "config.json")
    require_sane(values, "llm/config.json")
    require_sizes("llm", values, [tensor.shape for tensor in tensors.values()])
    values.pop("auto_map", None)
    model_type = values.pop("model_type", None)
    if not isinstance(model_type, str):
        raise VilaHDError(f"llm: model_type={model_type!r}: copy the whole config.json of the language model")
    return AutoConfig.for_model(model_type, **values)


def _read_tokenizer(
    folder: PublishedFolder, top: Mapping[str, Any], tensors: Mapping[str, LazyTensor], options: ReadOptions
) -> tuple[PreTrainedTokenizerBase, str, int]:
    """``(tokenizer, chat template, rows of the embedding table)``."""
    place = folder.component("llm")
    slow = ("vocab.json", "merges.txt")
    if not any((place / name).exists() for name in (*TOKENIZERS, *slow)):
        raise VilaHDError(f"{place}: no tokenizer (neither {' nor '.join(TOKENIZERS)}); get the whole folder")
    extras = top.get(EXTRAS) or {}
    added = Added.parse(extras["added"]) if "added" in extras else None
    tokenizer = read_tokenizer(place, added)
    rows = extras.get("vocab_rows", len(tokenizer))
    most = max([len(tokenizer), *(tensor.shape[0] for tensor in tensors.values() if tensor.shape)])
    if not isinstance(rows, int) or isinstance(rows, bool) or not len(tokenizer) <= rows <= most:
        raise VilaHDError(
            f"config.json: {EXTRAS}.vocab_rows={rows!r}, but the tokenizer has {len(tokenizer)} tokens and "
            "the largest "
            f"table {most} rows"
        )
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise VilaHDError(
            f"{place}: token ids up to {highest} for an embedding table of {rows} rows; get it again"
        )
    return tokenizer, read_template(tokenizer, options.chat_template, str(place)), rows


def _read_pixels(folder: Path, top: Mapping[str, Any]) -> PS3ImageProcessor:
    values = read_json(folder / "preprocessor_config.json")
    require_sane(values, "vision_tower/preprocessor_config.json")
    values.update(do_normalize=False, resize_mode=read_resize_mode(top))
    if top.get(EXTRAS, {}).get("resize_mode") is not None:
        values["resize_mode"] = top[EXTRAS]["resize_mode"]
    if top.get("image_aspect_ratio") == "resize":
        values["interpolation"] = "bicubic"  # the published code resizes before the tower's processor does
    pixels = PS3ImageProcessor(**values)
    require_picture_size(pixels.image_size)
    return pixels


def _read_config(
    folder: PublishedFolder,
    top: Mapping[str, Any],
    stored: Mapping[str, Mapping[str, LazyTensor]],
    text: PreTrainedConfig,
    pixels: PS3ImageProcessor,
    options: ReadOptions,
) -> VilaHDConfig:
    values = read_json(folder.component("vision_tower") / "config.json")
    require_sane(values, "vision_tower/config.json")
    projector = read_json(folder.component("mm_projector") / "config.json")
    require_sane(projector, "mm_projector/config.json")
    require_projector(projector.get("mm_projector_type"), len(stored["mm_projector"]))
    vision = read_vision_config(
        values,
        {name: tensor.shape for name, tensor in stored["vision_tower"].items()},
        pixels,
        budget_rounding=options.budget_rounding,
        num_attention_heads=options.num_attention_heads,
    )
    return read_config(
        top,
        projector,
        vision,
        text,
        head_stored=any(name.startswith("top_down_prompt_head.") for name in stored["mm_projector"]),
        lm_head_bias="lm_head.bias" in stored["llm"],
    )


def read_ours(folder: Path) -> Checkpoint:
    """The checkpoint in a folder of our own layout.

    Raises:
        VilaHDError: it is damaged, or no such folder.
    """
    require_intact(folder)
    hub = {"local_files_only": True, "trust_remote_code": False}
    config, processor = read_parts(str(folder), hub)
    stored = open_folder(folder, "")
    try:
        expected = {name: tuple(value.shape) for name, value in skeleton(config).state_dict().items()}
        tied = set(getattr(skeleton(config), "all_tied_weights_keys", None) or {})
        path = folder / "generation_config.json"
        generation = GenerationConfig.from_pretrained(folder) if path.is_file() else GenerationConfig()
    except VilaHDError:
        raise
    except BROKEN as error:
        raise VilaHDError(
            f"{folder}: its files describe no model ({first_line(error)}); get them again"
        ) from error
    expected = {name: shape for name, shape in expected.items() if name not in tied}
    check_names(str(folder), {name: t for name, t in stored.items() if name not in tied}, expected)
    tensors = {name: stored[name] for name in expected}
    return Checkpoint(str(folder), config, processor, generation, tensors, documents=find_documents(folder))


def from_model(model: VilaHDForConditionalGeneration, processor: VilaHDProcessor) -> Checkpoint:
    """The checkpoint of a model in memory."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state = {name: value for name, value in model.state_dict().items() if name not in tied}
    tensors = {name: from_tensor(name, value) for name, value in state.items()}
    config = copy.deepcopy(model.config)
    return Checkpoint(type(model).__name__, config, processor, model.generation_config, tensors)


def _make_processor(
    config: VilaHDConfig,
    pixels: PS3ImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    image_end_text: str,
) -> VilaHDProcessor:
    vision = config.vision_config
    return VilaHDProcessor(
        pixels,
        tokenizer,
        low_res_tokens=config.low_res_tokens,
        scales=vision.ps3_scales,
        patch_size=vision.patch_size,
        downsample=config.downsample,
        patches_per_pass=vision.patches_per_pass,
        default_budget=config.default_budget,
        image_end_text=image_end_text,
        chat_template=add_pictures_to_template(template),
    )


def make_generation_config(tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> GenerationConfig:
    """How the published code answers when a call does not say: greedily, to a stop token or the context's
    end."""
    eos = tokenizer.eos_token_id
    values: dict[str, Any] = {
        "bos_token_id": eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "pad_token_id": eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "eos_token_id": stops,
        "do_sample": False,
    }
    if (length := max_length_of(tokenizer)) is not None:
        values["max_length"] = length
    return GenerationConfig(**values)


def skeleton(config: VilaHDConfig) -> VilaHDForConditionalGeneration:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return VilaHDForConditionalGeneration(config)


def place(
    config: VilaHDConfig,
    stored: Mapping[str, Mapping[str, LazyTensor]],
    base_prefix: str,
    label: str,
) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """``(tensors by our names, sources of tensors that are not used)``.

    The embedding table and the output layer are given as many rows as ``config`` says.

    Raises:
        VilaHDError: tensors are unknown, missing, there twice, or of another shape.
    """
    ours: dict[str, LazyTensor] = {}
    dropped, unknown, twice = [], [], []
    for component, tensors in stored.items():
        for name, tensor in tensors.items():
            try:
                target = to_ours(component, name, base_prefix=base_prefix)
            except KeyError:
                unknown.append(f"{component}:{name} {tensor.shape}")
                continue
            if target is None:
                dropped.append(tensor.source)
            elif target in ours:
                twice.append(target)
            else:
                ours[target] = tensor
    # Matches the reference, which resizes the embeddings to the tokenizer's length after loading.
    model = skeleton(config)
    for name in embedding_names(model):
        if name in ours and ours[name].shape and ours[name].shape[0]:
            ours[name] = with_rows(ours[name], config.text_config.vocab_size)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in set(getattr(model, "all_tied_weights_keys", None) or {}) & set(ours):
        dropped.append(ours.pop(name).source)
        expected.pop(name)
    for name in getattr(model, "all_tied_weights_keys", None) or {}:
        expected.pop(name, None)
    check_names(label, ours, expected, unknown=unknown, twice=twice)
    return {name: ours[name] for name in expected}, tuple(dropped)


def embedding_names(model: VilaHDForConditionalGeneration) -> tuple[str, ...]:
    """Names of tensors with one row per token."""
    embedding = next(name for name, part in model.named_modules() if part is model.get_input_embeddings())
    return f"{embedding}.weight", "lm_head.weight", "lm_head.bias"


def check_names(
    label: str,
    found: Mapping[str, LazyTensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    unknown: Sequence[str] = (),
    twice: Sequence[str] = (),
) -> None:
    """Pass when ``found`` are the tensors that a model has, in the shapes that it has.

    Args:
        label: where they come from.
        found: by the model's names.
        expected: shapes by the model's names.
        unknown: tensors that no name was found for.
        twice: names that several tensors were found for.

    Raises:
        VilaHDError: they are not; lists what is unknown, missing and wrongly shaped.
    """
    extra = [f"{found[name].source} {found[name].shape}" for name in found if name not in expected]
    unknown = [*unknown, *extra]
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    wrong = [
        f"{found[name].source} is {found[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        f"{len(names)} {what} tensor(s): {shorten(names)}"
        for what, names in (
            ("unknown", unknown),
            ("missing", missing),
            ("wrongly shaped", wrong),
            ("duplicate", twice),
        )
        if names
    ]
    if problems:
        raise VilaHDError(
            f"{label} does not hold the model that its config files describe: {'; '.join(problems)}; use the "
            "config files that belong to these weights"
        )


def shorten(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    return one_line(error)[:160] or type(error).__name__
