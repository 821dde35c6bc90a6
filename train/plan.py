"""``python -m train plan``: what a stage will need, before anything is started.

The model is built without storage (torch's meta device). Memory of weights, gradients and optimiser follows
from the ZeRO stage; memory of activations is measured on the parts of the model that hold nearly all of it
(a block of the tower, a layer of the language model) by running them without storage, too, and adding up what
they keep for the backward pass.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from vila_hd.configuration_vila_hd import VilaHDConfig, join_configs
from vila_hd.errors import VilaHDError
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_trunk import TrunkConfig
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.trunk import Trunk

from .assembly import ps3_config, scene_tokenizer
from .config import StageConfig
from .engine import engine_config
from .lora import LoraConfig, target_layers
from .plan_report import Gpus, Plan
from .stage_files import load_model_file
from .stages import Component, component_of
from .steps import look_options

WORDS = 96
"""Tokens of text per sequence that are assumed: a question, its answer and the template around them."""


def plan_stage(
    config: StageConfig, gpus: Gpus, *, words: int = WORDS, device: Literal["cuda", "cpu"] = "cuda"
) -> Plan:
    """Estimate what one process of the stage needs.

    Args:
        config: the stage.
        gpus: how many, and how large.
        words: tokens of text per sequence.
        device: where it will run; on a CPU, attention keeps its weights for the backward pass.

    Raises:
        VilaHDError: the model to start from is not there, or the global batch does not fit the processes.
    """
    settings = engine_config(config.deepspeed, config.precision)
    try:
        accumulation = config.accumulation_steps(gpus.count)
    except ValueError as error:
        raise VilaHDError(str(error)) from error
    model = build_on_meta(config)
    trained, frozen = count_parameters(model, config)
    with fused_attention() if device == "cuda" else contextlib.nullcontext():
        activations, tokens, visual = estimate_activations(model, config, words=words, device=device)
    return Plan(
        config=config,
        gpus=gpus,
        accumulation=accumulation,
        trained=trained,
        frozen=frozen,
        zero=settings.get("zero_optimization", {}),
        activations=activations,
        tokens=tokens,
        visual_tokens=visual,
        tower=sum(counts.get(part, 0) for counts in (trained, frozen) for part in ("vision", "selector")),
    )


# ---------------------------------------------------------------- the model


def build_on_meta(config: StageConfig) -> nn.Module:
    """The stage's model without storage.

    Raises:
        VilaHDError: there is no such model.
    """
    with torch.device("meta"):
        if config.stage == "ps3_pretrain":
            return PS3Model(_tower_config(config))
        return VilaHDForConditionalGeneration(_model_config(config))


def _tower_config(config: StageConfig) -> PS3Config:
    if config.model.suffix == ".yaml":
        return ps3_config(load_model_file(config.model))[0]
    return PS3Config.from_pretrained(_folder(config.model))


def _model_config(config: StageConfig) -> VilaHDConfig:
    source = config.model
    if source.suffix != ".yaml" and (source / "config.json").is_file():
        values = json.loads((source / "config.json").read_text(encoding="utf-8"))
        if values.get("model_type") == VilaHDConfig.model_type:
            return cast(VilaHDConfig, VilaHDConfig.from_pretrained(source))
    if config.llm is None:
        raise VilaHDError(f"model: {_folder(source)} is no complete model and llm is missing")
    vision = AutoConfig.from_pretrained(_folder(source)) if source.suffix != ".yaml" else None
    vision = _tower_config(config).vision_config if vision is None else vision
    vision = getattr(vision, "vision_config", vision)
    assert isinstance(vision, PS3VisionConfig)
    if config.llm.suffix != ".yaml":
        return join_configs(vision, AutoConfig.from_pretrained(config.llm))
    file = load_model_file(config.llm)
    values = dict(file.llm)
    words = values.pop("vocab_size", None) or len(scene_tokenizer(file)) + 1
    text = AutoConfig.for_model(cast(str, values.pop("model_type")), **values, vocab_size=words)
    fusion = file.fusion.values()
    return join_configs(fusion.pop("encoder").config(vision), text, **fusion)


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise VilaHDError(f"model: {path} is no model folder (no config.json); run the stage before first")
    return path


def count_parameters(
    model: nn.Module, config: StageConfig
) -> tuple[dict[Component, int], dict[Component, int]]:
    """Trained and frozen values per component."""
    trained: dict[Component, int] = {}
    frozen: dict[Component, int] = {}
    lora = config.lora
    adapted = set(lora.components) if lora is not None else set()
    for name, parameter in model.named_parameters():
        component = component_of(name)
        trains = component in config.trainable and component not in adapted
        into = trained if trains else frozen
        into[component] = into.get(component, 0) + parameter.numel()
    if lora is not None:
        for component, count in _adapter_values(model, lora).items():
            trained[component] = trained.get(component, 0) + count
    return trained, frozen


def _adapter_values(model: nn.Module, lora: LoraConfig) -> dict[Component, int]:
    counts: dict[Component, int] = {}
    for name in target_layers(model, lora):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        values = lora.rank * (layer.in_features + layer.out_features) + lora.dora * layer.out_features
        component = component_of(f"{name}.weight")
        counts[component] = counts.get(component, 0) + values
    return counts


# ---------------------------------------------------------------- activations


def estimate_activations(
    model: nn.Module, config: StageConfig, *, words: int, device: str
) -> tuple[dict[str, int], int, int]:
    """Bytes kept for the backward pass of one micro-batch by part, tokens per sequence, and visual ones."""
    vision, trunk = _tower_of(model)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    pictures, items = config.micro_batch_size, config.data.samples_per_row
    looks = pictures * items
    patches = patches_per_look(config, vision)
    low = vision.low_res_grid**2
    high = 0 if config.stage == "select" else patches
    block, depth = trunk.blocks[0], len(trunk.blocks)
    keeps = {"vision", "selector"} & set(config.trainable)
    parts = {"tower, low": 0, "tower, high": 0}
    if "vision" in keeps:
        checkpointed = config.gradient_checkpointing
        parts["tower, low"] = _layers(
            block,
            depth,
            lambda: _sequence(pictures * vision.most_squares, low, vision.hidden_size, dtype),
            checkpointed,
            dtype,
        )
        parts["tower, high"] = _layers(
            _WithCache(block, low, looks), depth,
            lambda: _sequence(looks, high, vision.hidden_size, dtype), checkpointed, dtype,
        )  # fmt: skip
    if isinstance(model, PS3Model):
        return parts, low + high, low + high
    multi = cast(VilaHDForConditionalGeneration, model)
    side = multi.config.downsample
    tiles = getattr(vision, "max_tiles", 0)
    visual = multi.config.low_res_tokens * (1 + tiles) + high // side**2
    length = visual + words if config.stage != "select" else multi.config.low_res_tokens + words
    reads = not {"vision", "projector", "llm"}.isdisjoint(config.trainable)
    if config.stage != "select" and reads:
        language = multi.model.language_model
        width = multi.config.text_config.hidden_size
        parts["language model"] = _language_model(
            language, (looks, length, width), config, dtype, "sdpa" if device == "cuda" else "eager"
        )
        parts["head"] = 3 * looks * words * multi.config.text_config.vocab_size * 4
        parts["projector"] = looks * visual * (4 * vision.hidden_size + 3 * width) * dtype.itemsize
    return parts, length, visual


def _tower_of(model: nn.Module) -> tuple[TrunkConfig, Trunk]:
    if isinstance(model, PS3Model):
        return cast(TrunkConfig, model.config.vision_config), model.vision_model.trunk
    assert isinstance(model, VilaHDForConditionalGeneration)
    return model.config.vision_config, model.model.vision_tower.vision_model.trunk


def patches_per_look(config: StageConfig, vision: TrunkConfig) -> int:
    """Patches of one look that are chosen."""
    if not vision.chooses:
        return 0
    budget = look_options(config.looks, vision).budget
    assert isinstance(budget, int)
    return budget


def _sequence(batch: int, tokens: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(batch, tokens, width, device="meta", dtype=dtype, requires_grad=True)


class _WithCache(nn.Module):
    """A block of the tower behind the keys and values of the low-resolution pass."""

    def __init__(self, block: nn.Module, low: int, looks: int) -> None:
        super().__init__()
        self.block = block
        self.low = low
        self.looks = looks

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        _, key, value = self.block(x.new_empty(self.looks, self.low, x.shape[-1]), None, None, None, "sdpa")
        result: Tensor = self.block(x, (key.detach(), value.detach()), None, None, "sdpa")[0]
        return result


def _layers(
    block: nn.Module, depth: int, make: Callable[[], Tensor], checkpointed: bool, dtype: torch.dtype
) -> int:
    """Bytes that ``depth`` blocks keep; with checkpointing, their inputs and one block's insides."""
    x = make()
    if not x.numel():
        return 0
    block = _as_dtype(block, dtype)
    arguments = () if isinstance(block, _WithCache) else (None, None, None, "sdpa")
    with kept_bytes(block) as kept:
        block(x, *arguments)
    one = kept()
    return depth * x.numel() * x.element_size() + one if checkpointed else depth * one


def _language_model(
    language: nn.Module,
    shape: tuple[int, int, int],
    config: StageConfig,
    dtype: torch.dtype,
    implementation: str,
) -> int:
    settings = cast(PreTrainedConfig, language.config).to_dict()
    layers = settings.pop("num_hidden_layers")
    for name in ("layer_types", "max_window_layers"):
        settings.pop(name, None)
    one_layer = AutoConfig.for_model(settings.pop("model_type"), **settings, num_hidden_layers=1)
    one_layer._attn_implementation = implementation
    with torch.device("meta"):
        part = AutoModel.from_config(one_layer).to(dtype).train()
        # A mask of its final form: others are looked into, which has no storage.
        mask = torch.zeros(shape[0], 1, shape[1], shape[1], dtype=dtype)
    x = _sequence(*shape, dtype)
    with kept_bytes(part) as kept:
        part(inputs_embeds=x, attention_mask=mask, use_cache=False)
    one = kept()
    return layers * x.numel() * x.element_size() + one if config.gradient_checkpointing else layers * one


def _as_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    return module.to(dtype) if next(module.parameters()).dtype != dtype else module


class _Fused(torch.autograd.Function):
    """What a fused attention kernel keeps: queries, keys, values, output, and one number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        raise AssertionError("nothing is run backward without storage")


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, attention keeps what it keeps on a GPU; without storage, torch would take the plain one."""
    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        result: Tensor = _Fused.apply(query, key, value)
        return result

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


@contextlib.contextmanager
def kept_bytes(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Inside, what autograd keeps for the backward pass is added up; parameters do not count."""
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in storages.values())


def parse_gpus(text: str) -> Gpus:
    """``4x24GB`` -> four of 24 GB; ``80GB`` -> one.

    Raises:
        VilaHDError: another form.
    """
    match = re.fullmatch(r"(?:(\d+)x)?(\d+(?:\.\d+)?)\s*GB", text.strip(), flags=re.IGNORECASE)
    if match is None or int(match[1] or 1) < 1 or float(match[2]) <= 0:
        raise VilaHDError(f"--gpus {text}: write count and memory like 4x24GB")
    return Gpus(int(match[1] or 1), float(match[2]))


def run_plan(config: StageConfig, gpus: str, *, words: int, device: Literal["cuda", "cpu"]) -> int:
    """Print the plan of a stage; 0 when it fits, 1 when not."""
    plan = plan_stage(config, parse_gpus(gpus), words=words, device=device)
    print("\n".join(plan.lines()))
    return 0 if plan.fits else 1
