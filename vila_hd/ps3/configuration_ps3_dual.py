"""Configuration of the combined PS3 model: a vision tower, a text tower and the two numbers that compare
them."""

import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..errors import VilaHDError
from .configuration_ps3 import PS3VisionConfig
from .configuration_ps3_text import PS3TextConfig


class PS3Config(PreTrainedConfig):
    """A vision and a text tower with a shared output width.

    Attributes:
        vision_config: Configuration of the vision tower, or its keys.
        text_config: Configuration of the text tower, or its keys.
        logit_scale_init: Start of the logarithm of the factor on cosine similarities.
        logit_bias_init: Start of the number added to them; strongly negative, because most pairs do not
            match.
    """

    model_type = "ps3"
    sub_configs_defaults = {"vision_config": PS3VisionConfig, "text_config": PS3TextConfig}  # noqa: RUF012

    vision_config: dict[str, Any] | PS3VisionConfig | None = None
    text_config: dict[str, Any] | PS3TextConfig | None = None
    logit_scale_init: float = math.log(10.0)
    logit_bias_init: float = -10.0

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("vision_config", "text_config"):
            value = getattr(self, name)
            if not isinstance(value, dict | PreTrainedConfig | None):
                raise VilaHDError(f"{name}={value!r}: use a configuration or an object of its keys")
        super().__post_init__(**kwargs)
        assert isinstance(self.vision_config, PS3VisionConfig)
        assert isinstance(self.text_config, PS3TextConfig)
        prompt, width = self.text_config.prompt_proj_dim, self.vision_config.hidden_size
        if prompt != width:
            raise VilaHDError(
                f"text prompt_proj_dim={prompt} and vision hidden_size={width}: make them equal"
            )

    @property
    def hidden_size(self) -> int:
        """Width of the vision tower; DeepSpeed sizes its buckets by it."""
        assert isinstance(self.vision_config, PS3VisionConfig)
        return self.vision_config.hidden_size


AutoConfig.register(PS3TextConfig.model_type, PS3TextConfig, exist_ok=True)
AutoConfig.register(PS3Config.model_type, PS3Config, exist_ok=True)
