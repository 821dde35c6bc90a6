"""What the stages ``align``, ``pretrain``, ``sft`` and ``select`` learn from rows of data files."""

from typing import Any

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.processing_vila_hd import VilaHDProcessor

from .config import StageConfig, StageKind
from .data.samples import SampleDataset
from .data.sequences import SequenceEncoder
from .data.sources import open_sources
from .objectives import language
from .steps import look_options

DEFAULT_MAX_LENGTH = 8192
"""Tokens of a sample where neither the stage nor the language model says how many."""


def count_supervised(stage: StageKind, batch: dict[str, Any]) -> int:
    """Things in a batch that carry loss.

    Raises:
        VilaHDError: there is no batch, because a source of rows cannot be used.
    """
    if "report" in batch and batch["report"].failure is not None:
        raise VilaHDError(batch["report"].failure)
    if stage == "ps3_pretrain":
        return len(batch["look_index"])
    if stage == "select":
        return int((batch["boxes"][:, 2] > batch["boxes"][:, 0]).sum())
    return language.count_supervised(batch["labels"])


def build_samples(
    config: StageConfig, processor: VilaHDProcessor, model: VilaHDConfig, *, rows: int
) -> SampleDataset:
    """``rows`` samples of ``data.sources`` for a model.

    Raises:
        VilaHDError: a source cannot be opened or teaches nothing, or the model does not fit the stage.
    """
    image_processor = processor.image_processor
    if config.selection.resolution == "scales" and image_processor.resize_mode == "fit":
        raise VilaHDError(
            "selection.resolution=scales: this model keeps the shapes of pictures, so their grids differ; "
            "use cells"
        )
    if processor.tokenizer.pad_token_id is None:
        raise VilaHDError(f"{config.model}: its tokenizer has no pad_token; set one in tokenizer_config.json")
    longest = getattr(model.text_config, "max_position_embeddings", None)
    max_length = config.data.max_length or longest or DEFAULT_MAX_LENGTH
    if longest is not None and max_length > longest:
        raise VilaHDError(
            f"data.max_length={max_length}: the language model reads {longest} tokens at most; lower it"
        )
    encoder = SequenceEncoder(
        processor,
        options=look_options(config.looks, model.vision_config),
        max_length=max_length,
        max_pictures=config.data.max_pictures,
        prompt_end_ids=model.prompt_end_ids,
    )
    dataset = SampleDataset(
        open_sources(config.data.sources),
        encoder,
        rows=rows,
        seed=config.seed,
        own_choice=config.looks.own_choice,
        need_box=config.stage == "select",
    )
    dataset.check_sources()
    return dataset
