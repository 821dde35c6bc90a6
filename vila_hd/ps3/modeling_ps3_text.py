"""PS3 text tower: token ids to a pooled vector (compared with pictures) and a prompt (steers the selection).

Module and tensor names are those of the published checkpoints.

Shape suffixes used in this file:
    B = texts, N = tokens (context length plus one with a class token), C = channels, H = heads, D = channels
    of a head, O = output channels, P = prompt channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from ..errors import VilaHDError
from .configuration_ps3_text import PS3TextConfig
from .strict_loading import StrictLoadingMixin


@dataclass
class PS3TextOutput(ModelOutput):
    """What the text tower returns."""

    pooled_output: torch.Tensor | None = None
    """``(B, O)``, projected and not normalised; ``(B, N, O)`` when the config pools nothing."""

    prompt: torch.Tensor | None = None
    """``(B, P)``, the vector that steers the selection; ``(B, N, P)`` when the config pools nothing."""


class PS3TextLayerScale(nn.Module):
    """Multiplies each channel by a learned factor."""

    def __init__(self, width: int, init_value: float) -> None:
        super().__init__()
        self.init_value = init_value
        self.gamma = nn.Parameter(torch.full((width,), init_value))

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        return x_BNC * self.gamma


class PS3TextLinear(nn.Linear):
    """A linear layer that starts with normally distributed weights."""

    def __init__(self, in_features: int, out_features: int, *, init_std: float) -> None:
        super().__init__(in_features, out_features)
        self.init_std = init_std


class PS3TextAttention(nn.Module):
    """Self-attention with one packed input projection."""

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * config.width, config.width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.width))
        self.out_proj = PS3TextLinear(config.width, config.width, init_std=_branch_std(config))

    def forward(
        self, x_BNC: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        qkv = F.linear(x_BNC, self.in_proj_weight, self.in_proj_bias)
        q_BHND, k_BHND, v_BHND = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=mask, is_causal=causal)
        return self.out_proj(y_BHND.transpose(1, 2).flatten(2))


class PS3TextMLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.c_fc = PS3TextLinear(config.width, hidden, init_std=(2 * config.width) ** -0.5)
        self.gelu = nn.GELU(**(config.act_kwargs or {}))
        self.c_proj = PS3TextLinear(hidden, config.width, init_std=_branch_std(config))

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x_BNC)))


class PS3TextBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__()
        self.ln_1 = _layer_norm(config)
        self.attn = PS3TextAttention(config)
        self.ln_2 = _layer_norm(config)
        self.mlp = PS3TextMLP(config)
        self.ls_1 = _layer_scale(config)
        self.ls_2 = _layer_scale(config)

    def forward(
        self, x_BNC: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        x_BNC = x_BNC + self.ls_1(self.attn(self.ln_1(x_BNC), mask, causal))
        return x_BNC + self.ls_2(self.mlp(self.ln_2(x_BNC)))


class PS3TextTransformer(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(PS3TextBlock(config) for _ in range(config.layers))

    def forward(
        self, x_BNC: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        for block in self.resblocks:
            x_BNC = block(x_BNC, mask, causal)
        return x_BNC


class PS3PromptProjection(nn.Module):
    """Turns a normalised pooled text into a prompt of the vision tower's width."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, out_dim)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(out_dim)
        self.fc2 = nn.Linear(out_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.norm(self.act(self.fc1(x))))


class PS3TextEncoder(nn.Module):
    """The text tower itself: everything under ``text_model.`` in a published file."""

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        positions = config.context_length + config.embed_cls
        self.positional_embedding = nn.Parameter(torch.zeros(positions, config.width))
        if config.embed_cls:
            self.cls_emb = nn.Parameter(torch.zeros(config.width))
        self.transformer = PS3TextTransformer(config)
        self.ln_final = _layer_norm(config)
        self.text_projection: nn.Linear | nn.Parameter
        if config.proj_bias:
            self.text_projection = PS3TextLinear(config.width, config.output_dim, init_std=config.width**-0.5)
        else:
            self.text_projection = nn.Parameter(torch.zeros(config.width, config.output_dim))
        self.prompt_proj = PS3PromptProjection(config.output_dim, config.prompt_proj_dim)

    def forward(self, input_ids: torch.Tensor) -> PS3TextOutput:
        """Pooled text and selection prompt.

        Args:
            input_ids: ``(B, N)`` integers below ``vocab_size``. Pad to ``context_length``, as in training:
                padding is a token like any other to this tower, except to an appended class token.

        Raises:
            VilaHDError: another shape or type, too many tokens, or ids outside the vocabulary.
        """
        self._check(input_ids)
        x_BNC = self.token_embedding(input_ids)
        if self.config.embed_cls:
            x_BNC = torch.cat([x_BNC, self.cls_emb.expand(len(x_BNC), 1, -1)], dim=1)
        x_BNC = x_BNC + self.positional_embedding[: x_BNC.shape[1]]
        mask = self._class_token_mask(input_ids)
        causal = mask is None and not self.config.no_causal_mask
        x_BNC = self.transformer(x_BNC, mask, causal)
        pooled = self._project(self._pool(x_BNC, input_ids))
        return PS3TextOutput(pooled_output=pooled, prompt=self.prompt_proj(F.normalize(pooled, dim=-1)))

    def _class_token_mask(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """``(B, 1, N + 1, N + 1)`` True where a query may see a key; None without class token or causal mask.

        Built for each call: a buffer outside the state dict would come back from ``from_pretrained`` as
        uninitialised memory, because transformers builds models on the meta device.
        """
        if not self.config.embed_cls or self.config.no_causal_mask:
            return None
        batch, length = input_ids.shape
        mask = torch.ones(length + 1, length + 1, dtype=torch.bool, device=input_ids.device).tril()
        mask = mask.expand(batch, 1, -1, -1).clone()
        # Matches the published models: the class token stands at the end, but its padding mask is written as
        # if it stood in front, so key j + 1 is hidden where token j is padding.
        mask[:, 0, -1, 1:] &= input_ids != self.config.pad_id
        return mask

    def _pool(self, x_BNC: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        if self.config.embed_cls:
            return self.ln_final(x_BNC[:, -1])
        x_BNC = self.ln_final(x_BNC)
        match self.config.pool_type:
            case "first":
                return x_BNC[:, 0]
            case "last":
                return x_BNC[:, -1]
            case "argmax":
                return x_BNC[torch.arange(len(x_BNC), device=x_BNC.device), input_ids.argmax(dim=-1)]
            case _:
                return x_BNC

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x @ self.text_projection

    def _check(self, input_ids: torch.Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise VilaHDError(
                f"text ids of shape {tuple(input_ids.shape)} and type {input_ids.dtype}: "
                "use whole numbers of shape (texts, tokens), as PS3Tokenizer returns them"
            )
        if not 1 <= input_ids.shape[1] <= self.config.context_length:
            raise VilaHDError(
                f"{input_ids.shape[1]} text tokens: use 1 to context_length={self.config.context_length}"
            )
        # Out-of-range ids are an IndexError on the CPU, but poison the whole context on a GPU; checking there
        # would cost a synchronisation per call, so it is left to the tokenizer.
        if input_ids.device.type == "cpu" and input_ids.numel():
            low, high = int(input_ids.min()), int(input_ids.max())
            if low < 0 or high >= self.config.vocab_size:
                raise VilaHDError(
                    f"text ids from {low} to {high} with vocab_size={self.config.vocab_size}: "
                    "use the tokenizer that belongs to this checkpoint"
                )


class PS3TextModel(StrictLoadingMixin, PreTrainedModel):
    """The text tower as a transformers model; reads text-only and combined published folders."""

    config_class = PS3TextConfig
    base_model_prefix = ""
    input_modalities = ("text",)
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["PS3TextBlock"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^vision_model\.",
        r"^logit_scale$",
        r"^logit_bias$",
    ]

    def __init__(self, config: PS3TextConfig) -> None:
        super().__init__(config)
        self.text_model = PS3TextEncoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_text_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.text_model.token_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding."""
        self.text_model.token_embedding = value

    def forward(self, input_ids: torch.Tensor) -> PS3TextOutput:
        """See ``PS3TextEncoder.forward``."""
        return self.text_model(input_ids)


def init_text_weights(module: nn.Module) -> None:
    """Start values of a text tower module, by type; leaves tensors that a checkpoint has filled.

    The scheme is CLIP's: deviations that keep the residual stream's variance independent of depth and width.
    Each value is set at the module that owns it: for models defined outside its own package, transformers
    does not visit modules without parameters of their own.
    """
    match module:
        case PS3TextEncoder():
            init.normal_(module.positional_embedding, std=0.01)
            if module.config.embed_cls:
                init.normal_(module.cls_emb, std=0.01)
            if isinstance(module.text_projection, nn.Parameter):
                init.normal_(module.text_projection, std=module.config.width**-0.5)
        case PS3TextAttention():
            init.normal_(module.in_proj_weight, std=module.in_proj_weight.shape[1] ** -0.5)
            init.zeros_(module.in_proj_bias)
        case PS3TextLayerScale():
            init.constant_(module.gamma, module.init_value)
        case PS3TextLinear():
            init.normal_(module.weight, std=module.init_std)
            init.zeros_(module.bias)
        case nn.Linear():
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        case nn.Embedding():
            init.normal_(module.weight, std=0.02)
        case nn.LayerNorm():
            if module.weight is not None:
                init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


def _layer_norm(config: PS3TextConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, **(config.norm_kwargs or {}))


def _layer_scale(config: PS3TextConfig) -> nn.Module:
    if config.ls_init_value is None:
        return nn.Identity()
    return PS3TextLayerScale(config.width, config.ls_init_value)


def _branch_std(config: PS3TextConfig) -> float:
    """Deviation of layers whose output is added to the residual stream, twice per block."""
    return config.width**-0.5 * (2 * config.layers) ** -0.5
