"""Everything that differs between stages: which model, which rows, which batches, which step, how it is
saved."""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import vila_hd
from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.scenes import build_scene_tokenizer

from .config import StageConfig
from .data.account import Account
from .data.collators import QuestionCollator, RegionCollator, SampleCollator
from .data.regions import RealRegionDataset
from .data.samples import SampleDataset
from .data.scenes import QuestionDataset, RegionDataset
from .row_data import build_samples, count_supervised
from .stage_files import ModelFile, load_model_file
from .steps import MAX_LOGIT_SCALE, AccountedStep, LanguageStep, PretrainStep, SelectStep
from .trainer import Step

LOGGED_REGIONS = 10_000
"""Broken samples of region data that are named in the log, per process."""


@dataclass(frozen=True)
class Assembly:
    """The parts of one stage."""

    model: nn.Module
    dataset: RegionDataset | RealRegionDataset | QuestionDataset | SampleDataset
    collator: Callable[[list[Any]], dict[str, Any]]
    step: Step
    count_supervised: Callable[[dict[str, Any]], int]
    """Things in a batch that carry loss: tokens, or regions."""

    save: Callable[[Path, dict[str, Tensor]], None]
    """Write the finished model with these weights into a folder that ``load`` functions of the library
    open."""

    load: Callable[[Path], nn.Module]
    """Open what ``save`` wrote."""

    watched: QuestionDataset | SampleDataset | None = None
    """Rows whose looks are drawn again and again: scenes that are never trained on, or the first samples."""


def assemble(config: StageConfig, *, ranks: int) -> Assembly:
    """Build the parts of a stage.

    Raises:
        VilaHDError: the model to start from does not exist or does not fit the stage.
    """
    if config.stage == "ps3_pretrain":
        return _assemble_pretrain(config, ranks)
    return _assemble_questions(config, ranks)


def _rows(config: StageConfig) -> int:
    return config.max_steps * config.global_batch_size


# ---------------------------------------------------------------- ps3_pretrain


def _assemble_pretrain(config: StageConfig, ranks: int) -> Assembly:
    if config.model.suffix == ".yaml":
        model, tokenizer, image_processor = build_ps3(
            load_model_file(config.model), logit_bias=config.contrastive.logit_bias
        )
    else:
        model = cast(PS3Model, PS3Model.from_pretrained(config.model))
        tokenizer = PS3Tokenizer.from_pretrained(config.model)
        image_processor = PS3ImageProcessor.from_pretrained(config.model)

    def save(folder: Path, state: dict[str, Tensor]) -> None:
        # What the loss used: it limits the scale that it is given.
        state["logit_scale"] = state["logit_scale"].clamp(0.0, MAX_LOGIT_SCALE)
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder, copy_tokenizer=True)
        image_processor.save_pretrained(folder)

    step: Step = PretrainStep(config)
    if config.data.regions is not None:
        account = Account(config.data.max_broken, logged=LOGGED_REGIONS, fix="the log names shard and key")
        step = AccountedStep(step, account)
    return Assembly(
        model=model,
        dataset=region_dataset(config, side=model.config.vision_config.ps3_scales[-1], ranks=ranks),
        collator=RegionCollator(tokenizer),
        step=step,
        count_supervised=functools.partial(count_supervised, config.stage),
        save=save,
        load=lambda folder: cast(nn.Module, PS3Model.from_pretrained(folder)),
    )


def region_dataset(config: StageConfig, *, side: int, ranks: int) -> RegionDataset | RealRegionDataset:
    """Rows of ``ps3_pretrain``: of files if the stage names some, else rendered.

    Args:
        config: the stage.
        side: largest scale of the tower in pixels.
        ranks: processes that share the rows.
    """
    contrast = config.contrastive
    if config.data.regions is not None:
        return RealRegionDataset(
            config.data.regions,
            rows=_rows(config),
            seed=config.seed,
            side=side,
            items_per_picture=config.data.items_per_picture,
            global_share=contrast.global_share,
            global_instead=contrast.global_instead,
        )
    return RegionDataset(
        config.data,
        rows=_rows(config),
        seed=config.seed,
        ranks=ranks,
        contrast=contrast,
    )


def build_ps3(
    model_file: ModelFile, *, logit_bias: float | None = None
) -> tuple[PS3Model, PS3Tokenizer, PS3ImageProcessor]:
    """A PS3 model with random weights, and its tokenizer and image processor."""
    config, words = ps3_config(model_file, logit_bias=logit_bias)
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, PS3VisionConfig)
    assert isinstance(text, PS3TextConfig)
    tokenizer = PS3Tokenizer(words, context_length=text.context_length, clean="canonicalize")
    image_processor = PS3ImageProcessor(
        vision.ps3_scales[-1], vision.image_mean, vision.image_std, resize_mode="fit", do_normalize=False
    )
    return PS3Model(config), tokenizer, image_processor


def ps3_config(
    model_file: ModelFile, *, logit_bias: float | None = None
) -> tuple[PS3Config, PreTrainedTokenizerFast]:
    """The architecture of a model file, and the tokenizer that its vocabulary comes from."""
    text = dict(model_file.text)
    words = scene_tokenizer(model_file)
    vision_config = PS3VisionConfig(**known_fields(PS3VisionConfig, model_file.vision, "vision"))
    text |= {
        "vocab_size": len(words),
        "prompt_proj_dim": vision_config.hidden_size,
        "output_dim": vision_config.hidden_size,
        "pad_id": words.pad_token_id,
    }
    text_config = PS3TextConfig(**known_fields(PS3TextConfig, text, "text"))
    numbers = {} if logit_bias is None else {"logit_bias_init": logit_bias}
    return PS3Config(vision_config=vision_config, text_config=text_config, **numbers), words


# ---------------------------------------------------------------- align, sft, select


def _assemble_questions(config: StageConfig, ranks: int) -> Assembly:
    model, processor = load_or_compose(config)
    if not torch.cuda.is_available():
        # On CPUs the fused attention's backward pass is slower than two products at these lengths.
        model.model.language_model.set_attn_implementation("eager")
    step: Step = SelectStep(config) if config.stage == "select" else LanguageStep(config)

    def save(folder: Path, state: dict[str, Tensor]) -> None:
        model.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)

    if config.data.sources:
        dataset: SampleDataset | QuestionDataset = build_samples(
            config, processor, model.config, rows=_rows(config)
        )
        collator: Callable[[list[Any]], dict[str, Any]] = SampleCollator(processor.tokenizer.pad_token_id)
        step = AccountedStep(step, Account(config.data.max_broken))
    else:
        dataset = QuestionDataset(
            config.data,
            rows=_rows(config),
            seed=config.seed,
            ranks=ranks,
            own_choice=config.looks.own_choice,
            need_box=config.stage == "select",
        )
        collator = QuestionCollator(processor, model.config.prompt_end_ids)
    return Assembly(
        model=model,
        dataset=dataset,
        collator=collator,
        step=step,
        count_supervised=functools.partial(count_supervised, config.stage),
        save=save,
        load=lambda folder: vila_hd.load(folder, dtype="float32", device="cpu")[0],
        watched=_watched(config, dataset) if config.maps_steps else None,
    )


def _watched(
    config: StageConfig, dataset: QuestionDataset | SampleDataset
) -> QuestionDataset | SampleDataset:
    """Questions about scenes of the validation range, one each; of data files, the rows themselves."""
    if not isinstance(dataset, QuestionDataset):
        return dataset
    data = dataclasses.replace(
        config.data, split="validation", first_picture=0, items_per_picture=1, turns=1, picture_repeats=1
    )
    return QuestionDataset(data, rows=config.maps_samples, seed=0, need_box=True)


def load_or_compose(config: StageConfig) -> tuple[VilaHDForConditionalGeneration, VilaHDProcessor]:
    """The multi-modal model of a folder, or a new one around the tower of a PS3 folder.

    Raises:
        VilaHDError: ``llm`` is missing for a PS3 folder, or given for a complete model.
    """
    folder = config.model
    if not (folder / "config.json").is_file():
        raise VilaHDError(f"model: {folder} is no model folder (no config.json); run the stage before first")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind == VilaHDConfig.model_type:
        if config.llm is not None:
            raise VilaHDError(f"llm: {folder} has a language model already; leave llm out")
        return vila_hd.load(folder, dtype="float32", device="cpu")
    if config.llm is None:
        raise VilaHDError(f"llm: {folder} is a {kind!r} folder; say which language model to put behind it")
    if config.llm.suffix != ".yaml":
        return vila_hd.compose(tower=folder, llm=config.llm)
    model_file = load_model_file(config.llm)
    words = scene_tokenizer(model_file)
    values: dict[str, Any] = dict(model_file.llm)
    if "vocab_size" in values:
        raise VilaHDError(
            f"llm: {config.llm} has the sizes of a published model; give the folder of its weights"
        )
    llm_config = AutoConfig.for_model(
        values.pop("model_type"),
        **values,
        vocab_size=len(words),
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    model, processor = vila_hd.compose(
        tower=folder,
        llm=AutoModelForCausalLM.from_config(llm_config),
        tokenizer=words,
        seed=config.seed,
        **model_file.fusion.values(),
    )
    if model_file.fusion.prompt_end == "answer":
        model.config.prompt_end_ids = []
    return model, processor


# ---------------------------------------------------------------- both


def scene_tokenizer(model_file: ModelFile) -> PreTrainedTokenizerFast:
    """The tokenizer of the scenes' language: the same one in every process."""
    with tempfile.TemporaryDirectory() as folder:
        if model_file.vocabulary is None:
            return build_scene_tokenizer(folder)
        return build_scene_tokenizer(folder, vocabulary=model_file.vocabulary)


def known_fields(cls: type, values: dict[str, object], where: str) -> dict[str, Any]:
    """``values`` if the transformers config ``cls`` knows all of them; it would silently keep others.

    Raises:
        VilaHDError: unknown names.
    """
    known = set(getattr(cls, "__dataclass_fields__", {}))
    unknown = sorted(set(values) - known)
    if unknown:
        raise VilaHDError(f"{where}: unknown key(s) {unknown} for {cls.__name__}")
    return dict(values)
