"""VilaHDConfig: what a checkpoint needs to rebuild the architecture."""

import re
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from .errors import VilaHDError
from .options import Guide, Pruning
from .ps3.configuration_ps3 import PS3VisionConfig
from .ps3.configuration_trunk import TrunkConfig
from .towers.configuration_towers import AnyResVisionConfig, LowResVisionConfig, S2VisionConfig

VISION_CONFIGS: dict[str, type[TrunkConfig]] = {
    config.model_type: config
    for config in (PS3VisionConfig, LowResVisionConfig, AnyResVisionConfig, S2VisionConfig)
}
"""``model_type`` of ``vision_config`` -> kind of tower: the switch between PS3 and its baselines."""

DOWNSAMPLE = {"mlp_downsample": 2, "mlp_downsample_2x2_fix": 2, "mlp_downsample_3x3_fix": 3}
"""Projectors that merge a square of patches into one token: name -> side of that square in patches."""


def downsample_of(projector_type: str) -> int:
    """Side, in patches, of the square that one visual token of ``projector_type`` stands for.

    Raises:
        VilaHDError: unknown projector.
    """
    if projector_type in DOWNSAMPLE:
        return DOWNSAMPLE[projector_type]
    if projector_type in ("linear", "identity") or re.fullmatch(r"mlp[1-9]\d*x_gelu", projector_type):
        return 1
    raise VilaHDError(
        f"projector_type={projector_type!r}: use one of {', '.join(DOWNSAMPLE)}, mlpNx_gelu (such as "
        "mlp2x_gelu), "
        "linear or identity"
    )


@strict
class VilaHDConfig(PreTrainedConfig):
    """A vision tower, a projector and a causal language model.

    Attributes:
        vision_config: The tower: one of ``VISION_CONFIGS`` or its dictionary; without ``model_type``, PS3.
        text_config: The language model: any configuration that ``AutoModelForCausalLM`` knows.
        projector_type: ``mlp_downsample`` and ``mlp_downsample_2x2_fix`` (2 x 2 patches per token),
            ``mlp_downsample_3x3_fix`` (3 x 3), ``mlpNx_gelu``, ``linear``, ``identity`` (1 patch per token).
        select_layer: Block of the tower whose output is projected; -1 is the last, -2 the one before it.
        prompt_head: Turns the language model's state at the end of the question into the tower's prompt;
            None: the model cannot be guided by the question.
        high_res_position: Whether position and scale embeddings are added to the visual tokens.
        default_budget: High-resolution patches per picture when a call does not say; None: one full pass.
        default_guide: What steers the choice when a call does not say.
        default_pruning: How visual tokens are pruned when a call does not say, such as ``visionzip:0.25``
            (``options.Pruning``); None: not at all.
        cell_rule: Which tokens are kept where a grid is no multiple of the projector's square. ``whole``: all
            patches that exist in the square were chosen; ``published``: the published code's rule, which
            averages over overlapping windows. The same on every other grid.
        image_token_id: Id of the placeholder that stands for one low-resolution visual token.
        prompt_end_ids: Ids of the template text between a user's words and the answer. The position before
            their last occurrence is where the question ends. Empty: the last token of the prompt.
        lm_head_bias: Whether the language model's output layer has a bias.
    """

    model_type = "vila_hd"

    # Any: a dictionary or None on the way in, a configuration from then on.
    vision_config: Any = None
    text_config: Any = None
    projector_type: str = "mlp_downsample"
    select_layer: int = -2
    prompt_head: Literal["mlp", "linear"] | None = "mlp"
    high_res_position: bool = True
    default_budget: int | None = None
    default_guide: Guide = "prompt"
    default_pruning: str | None = None
    cell_rule: Literal["whole", "published"] = "whole"
    image_token_id: int = 0
    prompt_end_ids: list[int] | tuple[int, ...] = ()
    lm_head_bias: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _vision_config(self.vision_config)
        self.text_config = _text_config(self.text_config)
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        super().__post_init__(**kwargs)
        downsample_of(self.projector_type)
        if self.default_budget is not None and self.default_budget < 0:
            raise VilaHDError(f"default_budget={self.default_budget}: use a number of patches >= 0, or none")
        if self.prompt_head is None and self.default_guide == "prompt":
            raise VilaHDError("default_guide='prompt' without a prompt head: set default_guide to 'saliency'")
        if self.default_pruning is not None:
            Pruning.parse(self.default_pruning)
        if not self.vision_config.chooses:
            self._check_whole_pictures()
        if (
            self.projector_type == "identity"
            and self.vision_config.feature_width != self.text_config.hidden_size
        ):
            raise VilaHDError(
                f"projector_type='identity' joins a tower of width {self.vision_config.feature_width} to a "
                "language "
                f"model of width {self.text_config.hidden_size}: use 'linear' or an MLP"
            )
        self.prompt_end_ids = list(self.prompt_end_ids)

    def _check_whole_pictures(self) -> None:
        """What belongs to a choice of patches must be off."""
        wanted = {"prompt_head": None, "high_res_position": False, "default_guide": "saliency"}
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise VilaHDError(
                    f"{name}={getattr(self, name)!r}: a {self.vision_config.model_type} tower chooses no "
                    f"patches; set {name} to {value!r}"
                )

    @property
    def downsample(self) -> int:
        """Side, in patches, of the square that one visual token stands for."""
        return downsample_of(self.projector_type)

    @property
    def low_res_grid(self) -> int:
        """Rows, which are also the columns, of the patches of the first view of every picture."""
        return self.vision_config.feature_grid

    @property
    def low_res_tokens(self) -> int:
        """Visual tokens of the first view of every picture."""
        return (-(-self.low_res_grid // self.downsample)) ** 2

    @property
    def high_scales(self) -> tuple[int, ...]:
        """High-resolution scales in pixels, ascending, where they are the same for every picture."""
        return self.vision_config.high_scales


# After the class body, where the name would otherwise count as a field of the dataclass.
VilaHDConfig.sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}


def join_configs(
    vision: TrunkConfig,
    text: PreTrainedConfig,
    *,
    prompt_head: Literal["mlp", "linear"] | None = "mlp",
    high_res_position: bool = True,
    default_budget: int | None = None,
    default_guide: Guide | None = None,
    **others: Any,
) -> VilaHDConfig:
    """The configuration of a model around a tower; what belongs to a choice of patches only where it has one.

    Args:
        vision: the tower's.
        text: the language model's.
        prompt_head: see ``VilaHDConfig``.
        high_res_position: see ``VilaHDConfig``.
        default_budget: see ``VilaHDConfig``.
        default_guide: see ``VilaHDConfig``; None: the question if there is a prompt head, else the picture.
        **others: other fields of ``VilaHDConfig``.
    """
    choice: dict[str, Any] = {"prompt_head": None, "high_res_position": False, "default_guide": "saliency"}
    if vision.chooses:
        choice = {
            "prompt_head": prompt_head,
            "high_res_position": high_res_position,
            "default_budget": default_budget,
            "default_guide": default_guide or ("prompt" if prompt_head else "saliency"),
        }
    return VilaHDConfig(vision_config=vision, text_config=text, **choice, **others)


def _vision_config(value: dict | PreTrainedConfig | None) -> TrunkConfig:
    if isinstance(value, TrunkConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise VilaHDError(f"vision_config is a {type(value).__name__}: give a PS3VisionConfig")
    values = dict(value or {})
    model_type = values.pop("model_type", None) or PS3VisionConfig.model_type
    if model_type not in VISION_CONFIGS:
        raise VilaHDError(
            f"vision_config has model_type {model_type!r}: use one of {', '.join(VISION_CONFIGS)}"
        )
    return VISION_CONFIGS[model_type](**values)


def _text_config(value: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    values = dict(value or {"model_type": "qwen2"})
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise VilaHDError("text_config has no model_type: copy the whole config.json of the language model")
    return AutoConfig.for_model(model_type, **values)


AutoConfig.register("vila_hd", VilaHDConfig, exist_ok=True)
