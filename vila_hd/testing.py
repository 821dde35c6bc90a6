"""Tiny models, a byte tokenizer and synthetic pictures: everything a test needs, built in memory in
milliseconds."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from .configuration_vila_hd import VilaHDConfig, join_configs
from .constants import IMAGE_TOKEN
from .modeling_vila_hd import VilaHDForConditionalGeneration
from .processing_vila_hd import VilaHDProcessor, add_pictures_to_template
from .ps3.configuration_ps3 import PS3VisionConfig
from .ps3.image_processing_ps3 import PS3ImageProcessor, ResizeMode
from .towers.choice import PS3, EncoderChoice

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A chat template for texts, as a language model brings it: roles between markers."""

TINY_TEXT_MODELS = ("qwen2", "qwen3", "llama")
"""Language models that ``tiny_text_config`` can build."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, five special tokens, padding on the left."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", IMAGE_TOKEN],
        padding_side="left",
        chat_template=CHATML,
    )


def tiny_vision_config(**changes: Any) -> PS3VisionConfig:
    """A tower with a 4 x 4 low-resolution grid and two high-resolution scales (8 and 16 patches a side)."""
    values: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": 8,
        "ps3_scales": [32, 64, 128],
        "select_based_on_layer": [0, 2],
        "max_select_num": 80,
        "highres_selection_module_hidden_dim": 8,
        "highres_selection_module_out_dim": 8,
        "highres_selection_module_depth": 1,
        "highres_selection_module_kernel_size": 8,
        "selection_image_size": 64,
        "resample": "antialias",
    }
    return PS3VisionConfig(**{**values, **changes})


def tiny_text_config(model_type: str = "qwen2", *, vocab_size: int = 260, **changes: Any) -> PreTrainedConfig:
    """A two-layer language model of width 48."""
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return AutoConfig.for_model(model_type, **{**values, **changes})


def tiny_config(
    model_type: str = "qwen2",
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    encoder: EncoderChoice = PS3,
    **changes: Any,
) -> VilaHDConfig:
    """The configuration of ``tiny_model``; ``vision``, ``text`` and ``changes`` override values, ``encoder``
    says how to see with the trunk."""
    tokenizer = tiny_tokenizer()
    values: dict[str, Any] = {
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "prompt_end_ids": tokenizer("<|im_end|>\n<|im_start|>assistant", add_special_tokens=False)[
            "input_ids"
        ],
        "vision_config": tiny_vision_config(**(vision or {})),
        "text_config": tiny_text_config(model_type, vocab_size=len(tokenizer), **(text or {})),
    }
    values |= changes
    if encoder.kind == "ps3":
        return VilaHDConfig(**values)
    return join_configs(encoder.config(values.pop("vision_config")), values.pop("text_config"), **values)


def tiny_processor(config: VilaHDConfig | None = None) -> VilaHDProcessor:
    """The processor of ``tiny_model``: uint8 pictures that keep their aspect ratio."""
    config = config or tiny_config()
    mode: ResizeMode = "fit" if config.vision_config.chooses else "keep"
    return VilaHDProcessor.from_config(
        config,
        image_processor=PS3ImageProcessor(
            config.vision_config.ps3_scales[-1], 0.5, 0.5, resize_mode=mode, do_normalize=False
        ),
        tokenizer=tiny_tokenizer(),
        chat_template=add_pictures_to_template(CHATML),
    )


def tiny_model(config: VilaHDConfig | None = None, *, seed: int = 0) -> VilaHDForConditionalGeneration:
    """A random model in eval mode, float32 on the CPU. Every parameter is random, also those that start at
    zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VilaHDForConditionalGeneration(config or tiny_config())
        with torch.no_grad():
            for parameter in model.parameters():
                # Large enough for answers and choices to depend on every input.
                if parameter.ndim > 1 or not parameter.any():
                    parameter.normal_(std=0.15)
    return model.eval()


def perturb(model: nn.Module) -> None:
    """Move every parameter a little, so that none is what a new model has."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def tiny_picture(width: int = 128, height: int = 128, *, seed: int = 0) -> Image.Image:
    """A random picture with structure at several scales."""
    generator = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3))
    for cells in (2, 5, 16):
        noise = generator.random((min(cells, height), min(cells, width), 3)) * 255
        layer = Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        canvas += np.asarray(layer) / 3
    return Image.fromarray(canvas.round().astype(np.uint8))


def user_message(question: str, *pictures: Any) -> dict[str, Any]:
    """One user turn: pictures, then the question."""
    content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}
