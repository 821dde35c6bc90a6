"""``compose``: a fresh VILA-HD model from a vision tower and a language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .configuration_vila_hd import VilaHDConfig, join_configs
from .constants import IMAGE_TOKEN
from .errors import VilaHDError
from .loading import BUNDLED, load
from .modeling_vila_hd import VilaHDForConditionalGeneration
from .options import Guide
from .processing_vila_hd import VilaHDProcessor, add_pictures_to_template
from .ps3.configuration_trunk import TrunkConfig
from .ps3.image_processing_ps3 import PS3ImageProcessor, ResizeMode
from .ps3.modeling_ps3 import PS3VisionModel, VisionTowerModel
from .siglip import ps3_config_from_siglip, trunk_tensors_from_siglip
from .towers.choice import PS3, EncoderChoice


def compose(
    *,
    tower: str | Path | PS3VisionModel,
    encoder: EncoderChoice = PS3,
    llm: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    projector_type: str = "mlp_downsample",
    prompt_head: Literal["mlp", "linear"] | None = "mlp",
    high_res_position: bool = True,
    select_layer: int = -2,
    scales: Sequence[int] | None = None,
    default_budget: int | None = None,
    default_pruning: str | None = None,
    default_guide: Guide | None = None,
    resize_mode: ResizeMode | None = None,
    chat_template: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> tuple[VilaHDForConditionalGeneration, VilaHDProcessor]:
    """A model with a fresh projector and prompt head, to be trained, and its processor; on the CPU.

    Args:
        tower: folder or hub id of a PS3 or SigLIP tower or a VILA-HD model (also ``nano``), or a PS3 tower.
            A SigLIP tower gets fresh selection modules; its GELU becomes the exact one, as in the published
            PS3 towers.
        encoder: how to see with it. Encoders other than PS3 use its trunk alone and choose no patches, so
            ``prompt_head``, ``high_res_position``, ``default_budget`` and ``default_guide`` mean nothing.
        llm: folder or hub id of a causal language model, or the model itself (which is used, not copied).
        tokenizer: the language model's; None: from its folder.
        projector_type: see ``VilaHDConfig``.
        prompt_head: see ``VilaHDConfig``; None: the picture alone decides what is looked at.
        high_res_position: see ``VilaHDConfig``.
        select_layer: see ``VilaHDConfig``.
        scales: for a SigLIP tower: longest side per scale in pixels; None: its own size, twice and four times
            that.
        default_budget: see ``VilaHDConfig``.
        default_pruning: see ``VilaHDConfig``.
        default_guide: see ``VilaHDConfig``; None: the question if there is a prompt head, else the picture.
        resize_mode: ``fit`` keeps the pictures' aspect ratio, ``squash`` makes them square, ``keep`` leaves
            them as they are; None: ``fit`` for PS3, ``keep`` for encoders that make their own views.
        chat_template: template for texts; None: the tokenizer's own.
        dtype: of all parameters.
        seed: for the fresh parameters. Torch's global generator is left as it was.
        trust_remote_code: allow the language model or tokenizer to bring its own code.

    Raises:
        VilaHDError: a folder is of another kind, the tokenizer has no chat template, or the parts do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision = encoder.build(
            tower if isinstance(tower, PS3VisionModel) else _load_tower(str(tower), scales)
        )
        language, tokenizer = _load_language_model(llm, tokenizer, trust_remote_code=trust_remote_code)
        template = chat_template or tokenizer.chat_template
        if template is None:
            raise VilaHDError(
                "the tokenizer has no chat template: pass chat_template=, the one it was trained with"
            )
        _add_image_token(tokenizer, language)
        head = language.get_output_embeddings()
        config = join_configs(
            vision.config,
            language.config,
            projector_type=projector_type,
            select_layer=select_layer,
            prompt_head=prompt_head,
            high_res_position=high_res_position,
            default_budget=default_budget,
            default_pruning=default_pruning,
            default_guide=default_guide,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            lm_head_bias=head.bias is not None,
        )
        tokenizer.padding_side = "left"
        processor = VilaHDProcessor.from_config(
            config,
            image_processor=_image_processor(vision.config, resize_mode),
            tokenizer=tokenizer,
            chat_template=add_pictures_to_template(template),
        )
        config.prompt_end_ids = processor.find_prompt_end_ids()
        model = _assemble(config, vision, language, head)
    model.generation_config = _generation_config(language, tokenizer)
    return model.to(dtype).eval(), processor


def _assemble(
    config: VilaHDConfig, vision: VisionTowerModel, language: PreTrainedModel, head: nn.Module
) -> VilaHDForConditionalGeneration:
    """The model around loaded parts; only the projector is new."""
    from .projector import VilaHDProjector

    # Nothing is initialised twice: the skeleton has no storage.
    with torch.device("meta"):
        model = VilaHDForConditionalGeneration(config)
    model.model.vision_tower = vision
    model.model.language_model = language.base_model
    model.model.projector = VilaHDProjector(config).apply(model._init_weights)
    model.lm_head = head
    model.tie_weights()
    empty = [name for name, value in model.named_parameters() if value.is_meta]
    assert not empty, empty
    return model


def _load_tower(source: str, scales: Sequence[int] | None) -> PS3VisionModel:
    if source == "nano":
        source = str(BUNDLED)
    config = _read_config(source, "tower")
    if config.model_type in ("ps3", "ps3_vision_model"):
        if scales is not None:
            raise VilaHDError(
                f"scales={list(scales)}: {source} is a PS3 tower with its own scales; leave them out"
            )
        return cast(PS3VisionModel, PS3VisionModel.from_pretrained(source))
    if isinstance(config, VilaHDConfig) and config.vision_config.chooses:
        return cast(PS3VisionModel, load(source, dtype="float32", device="cpu")[0].model.vision_tower)
    vision = getattr(config, "vision_config", config)
    if vision.model_type != "siglip_vision_model":
        raise VilaHDError(f"{source}: a {config.model_type!r} model; use the folder of a PS3 or SigLIP tower")
    from transformers import SiglipVisionModel

    siglip = SiglipVisionModel.from_pretrained(source, dtype=torch.float32)
    tower = PS3VisionModel(ps3_config_from_siglip(vision, scales=scales))
    tensors = trunk_tensors_from_siglip(siglip.state_dict())
    missing, unexpected = tower.vision_model.trunk.load_state_dict(tensors, strict=False)
    # A tower without a pooling head keeps a fresh one.
    missing = [name for name in missing if not name.startswith("attn_pool.")]
    if missing or unexpected:
        raise VilaHDError(f"{source}: missing tensors {missing[:4]}, unexpected tensors {unexpected[:4]}")
    return tower


def _load_language_model(
    llm: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(llm, PreTrainedModel):
        if tokenizer is None:
            raise VilaHDError("llm is a model: pass its tokenizer, too")
        return llm, tokenizer
    source = str(llm)
    _read_config(source, "llm", trust_remote_code=trust_remote_code)
    try:
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            source, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise VilaHDError(f"llm {source} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model, tokenizer


def _read_config(source: str, what: str, **options: Any) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise VilaHDError(f"{what} {source} cannot be loaded: {str(error).splitlines()[0]}") from error


def _add_image_token(tokenizer: PreTrainedTokenizerBase, language: PreTrainedModel) -> None:
    """Make ``<image>`` a token, and the embedding table large enough for it."""
    tokenizer.add_tokens(IMAGE_TOKEN, special_tokens=True)
    rows = language.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        # The new rows are never read: visual tokens take their place. transformers starts them at the mean.
        language.resize_token_embeddings(len(tokenizer))


def _image_processor(config: TrunkConfig, resize_mode: ResizeMode | None) -> PS3ImageProcessor:
    return PS3ImageProcessor(
        config.ps3_scales[-1],
        config.image_mean,
        config.image_std,
        resize_mode=resize_mode or ("fit" if config.chooses else "keep"),
        do_normalize=False,
    )


def _generation_config(language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    config = language.generation_config or GenerationConfig()
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = (
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        )
    return config
