"""What both VILA-HD models share: initialisation, strict loading, saving."""

import os
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_vila_hd import VilaHDConfig
from .projector import PromptLinear, ScaleEmbeddings, VilaHDProjector
from .ps3.strict_loading import StrictLoadingMixin
from .remote_code import add_remote_code

_PROMPT_HEAD_INIT = 0.02


class VilaHDPreTrainedModel(StrictLoadingMixin, PreTrainedModel):
    """Initialisation, loading and saving shared by both models."""

    config_class = VilaHDConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # At the owner of each parameter: transformers skips modules that own none themselves.
        if isinstance(module, PromptLinear):
            init.uniform_(module.weight, -_PROMPT_HEAD_INIT, _PROMPT_HEAD_INIT)
            init.uniform_(module.bias, -_PROMPT_HEAD_INIT, _PROMPT_HEAD_INIT)
        elif isinstance(module, ScaleEmbeddings):
            for table in module:
                init.zeros_(table)
        elif isinstance(module, VilaHDProjector) and module.has_positions:
            init.zeros_(module.high_res_pos_embed)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write config and weights; arguments as in ``PreTrainedModel.save_pretrained``."""
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            add_remote_code(Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoModel") -> None:
        """Nothing to do: saved folders name this package instead of carrying a copy of its source."""
