"""The combined PS3 model: pictures and texts to vectors that can be compared, and texts that steer the
choice.

Letters used for shapes in this file:
    B = pictures, L = looks (uses of a picture), T = texts, N = text tokens, O = shared output width, D =
    vision width, g = side of the low-resolution grid.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..errors import VilaHDError
from ..options import HighResOptions
from .checkpoint import fill_from_shapes, read_shapes
from .configuration_ps3 import PS3VisionConfig
from .configuration_ps3_dual import PS3Config
from .configuration_ps3_text import PS3TextConfig
from .encoder import PS3VisionEncoder
from .modeling_ps3 import PS3PreTrainedModel
from .modeling_ps3_text import PS3TextEncoder, PS3TextModel, PS3TextOutput, init_text_weights
from .outputs import PS3VisionOutput
from .regions import Regions
from .vision_encoder import Pixels

_HUB_ARGUMENTS = ("revision", "local_files_only", "token", "cache_dir", "subfolder")


@dataclass
class PS3Output(ModelOutput):
    """What contrastive pre-training needs from one call. Row i of the vectors belongs to look i, row i of the
    scores to look ``close_looks[i]``: texts about whole pictures need no choice of patches."""

    image_embeds: Tensor | None = None
    """``(L, O)``, not normalised: the pooled high-resolution patches in the look's region, or the pooled
    low-resolution picture where the text describes all of it."""

    text_embeds: Tensor | None = None
    """``(T, O)``, not normalised; T = L without ``text_index``."""

    prompt_scores: Tensor | None = None
    """``(C, g, g)``: how interesting each low-resolution cell is for the text."""

    saliency_scores: Tensor | None = None
    """``(C, g, g)``: how interesting it is without a text."""

    close_looks: Tensor | None = None
    """``(C,)`` long: the looks that had a high-resolution pass, ascending; None: all of them."""

    logit_scale: Tensor | None = None
    """The logarithm of the factor on cosine similarities."""

    logit_bias: Tensor | None = None
    """The number added to them. Both are copies: under ZeRO-3 the parameters are empty outside of
    ``forward``."""

    vision: PS3VisionOutput | None = None
    """Everything the vision tower computed."""

    text: PS3TextOutput | None = None
    """Everything the text tower computed."""


class PS3Model(PS3PreTrainedModel):
    """Vision and text tower with the tensor names of the published combined folders."""

    config_class = PS3Config
    vision_class: ClassVar[type[PS3VisionEncoder]] = PS3VisionEncoder
    """What the vision tower is built from; a subclass may put a wrapper here."""

    _no_split_modules = ["Block", "PS3TextBlock"]  # noqa: RUF012  # transformers' own convention
    # Published files seldom hold the two numbers: training code kept them elsewhere.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^logit_scale$", r"^logit_bias$"]

    def __init__(self, config: PS3Config) -> None:
        super().__init__(config)
        assert isinstance(config.vision_config, PS3VisionConfig)
        assert isinstance(config.text_config, PS3TextConfig)
        self.vision_model = self.vision_class(config.vision_config)
        self.text_model = PS3TextEncoder(config.text_config)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.logit_bias = nn.Parameter(torch.tensor(config.logit_bias_init))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PS3Model):
            init.constant_(module.logit_scale, module.config.logit_scale_init)
            init.constant_(module.logit_bias, module.config.logit_bias_init)
        super()._init_weights(module)
        if type(module).__name__.startswith("PS3Text") or isinstance(module, nn.Embedding):
            init_text_weights(module)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """The combined model of a folder or hub repository, in eval mode.

        Arguments are those of transformers; keys of the vision configuration such as ``num_attention_heads``
        override the stored ones.

        Raises:
            VilaHDError: tensors are missing, unexpected, of the wrong shape or not finite, or the folder
                holds only one of the towers.
        """
        config = kwargs.pop("config", None)
        if not isinstance(config, PreTrainedConfig):
            source = str(pretrained_model_name_or_path)
            hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
            config = cls._read_config(str(config or source), hub, kwargs)
            cls.complete_config(config, source, hub)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @classmethod
    def _read_config(cls, source: str, hub: dict[str, Any], kwargs: dict[str, Any]) -> PS3Config:
        """The stored configuration, changed by the vision keys among ``kwargs``, which are taken out of
        it."""
        fields = {field.name for field in dataclasses.fields(PS3VisionConfig)}
        own = {field.name for field in dataclasses.fields(PS3Config)}
        changes = {key: kwargs.pop(key) for key in (fields - own) & set(kwargs)}
        try:
            stored, _ = PS3Config.get_config_dict(source, **hub)
        except OSError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise VilaHDError(f"cannot load {cls.__name__} from {source}: {first}") from error
        absent = sorted({"vision_config", "text_config"} - set(stored))
        if absent:
            raise VilaHDError(
                f"{source} has no {' and no '.join(absent)}: it is no combined folder, load it with "
                "PS3VisionModel or PS3TextModel"
            )
        stored = stored | {"vision_config": stored["vision_config"] | changes}
        return PS3Config.from_dict(stored)

    @classmethod
    def complete_config(cls, config: PreTrainedConfig, source: str, hub: dict[str, Any]) -> None:
        """Read trunk sizes that the config does not state from the stored tensors."""
        vision = config.vision_config
        open_keys = ("num_hidden_layers", "intermediate_size", "position_grid_size")
        if any(getattr(vision, key) is None for key in open_keys):
            fill_from_shapes(vision, read_shapes(source, hub))

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the text tower."""
        return self.text_model.token_embedding

    def encode_image(
        self,
        pixel_values: Pixels,
        prompt: Tensor | None = None,
        *,
        options: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        pool: bool = False,
    ) -> PS3VisionOutput:
        """Features of pictures; see ``PS3VisionModel.forward``."""
        return self.vision_model(
            pixel_values, prompt, options=options, regions=regions, look_index=look_index, pool=pool
        )

    def encode_text(self, input_ids: Tensor) -> PS3TextOutput:
        """Pooled texts ``(T, O)`` and selection prompts ``(T, D)`` of token ids ``(T, N)``."""
        return self.text_model(input_ids)

    def get_text_features(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled texts ``(T, O)``, not normalised, and selection prompts ``(T, D)`` of token ids ``(T,
        N)``."""
        output = self.text_model(input_ids)
        return output.pooled_output, output.prompt

    def forward(
        self,
        pixel_values: Pixels,
        input_ids: Tensor,
        *,
        options: HighResOptions | None = None,
        regions: Regions | None = None,
        pool_regions: Regions | None = None,
        look_index: Tensor | None = None,
        text_index: Tensor | None = None,
        is_global: Tensor | None = None,
        saliency: bool = True,
    ) -> PS3Output:
        """One step of contrastive pre-training: every text looks at one picture, guided by itself.

        Args:
            pixel_values: ``(B, 3, H, W)`` or one ``(3, H, W)`` per picture.
            input_ids: ``(T, N)`` token ids, one text per look; with ``text_index`` any number of texts.
            options: how closely to look; None: one pass of the checkpoint's own size.
            regions: one entry per look: what the text describes. Its patches are chosen first.
            pool_regions: only chosen patches in these are pooled (all chosen ones where a region is empty);
                None: those in ``regions``.
            look_index: ``(L,)`` the picture of every look, so that several texts share one low-resolution
                pass; None: look i shows picture i.
            text_index: ``(L,)`` the text of every look, so that looks share texts and other texts are just
                encoded; None: look i belongs to text i.
            is_global: ``(L,)`` bool: texts about the whole picture, compared with the pooled low-resolution
                tokens. They skip the high-resolution pass (but for one look when all are: every rank must
                run the same modules).
            saliency: also compute the scores without a text.

        Raises:
            VilaHDError: counts that do not fit together, and what the towers refuse.
        """
        text = self.text_model(input_ids)
        if text.pooled_output.dim() != 2:
            raise VilaHDError(
                "text config: pool_type='none' keeps every token; contrastive training needs one vector"
            )
        prompt = text.prompt if text_index is None else text.prompt[text_index]
        close = _close_looks(is_global, len(prompt))
        pool_regions = regions if pool_regions is None else pool_regions
        index = look_index
        if close is not None:
            index = close if look_index is None else look_index.to(close.device)[close]
            prompt = prompt[close]
            regions, pool_regions = (
                None if entry is None else entry.subset(close.tolist()) for entry in (regions, pool_regions)
            )
        vision = self.vision_model(
            pixel_values,
            prompt,
            options=options,
            regions=regions,
            look_index=index,
            layers=(),
            pool=True,
            pool_regions=pool_regions,
            saliency=saliency,
        )
        image_embeds = vision.pooled_output
        if is_global is not None and vision.high is not None:
            low = vision.low.pooled if look_index is None else vision.low.pooled[look_index]
            if close is not None:
                image_embeds = low.index_copy(0, close, image_embeds.to(low.dtype))
            # Also without any global look: every rank must run the same modules backward.
            image_embeds = torch.where(is_global.bool()[:, None], low, image_embeds)
        elif close is not None:
            image_embeds = vision.low.pooled if look_index is None else vision.low.pooled[look_index]
        return PS3Output(
            close_looks=close,
            image_embeds=image_embeds,
            text_embeds=text.pooled_output,
            prompt_scores=vision.prompt_scores,
            saliency_scores=vision.saliency_scores,
            logit_scale=self.logit_scale.clone(),
            logit_bias=self.logit_bias.clone(),
            vision=vision,
            text=text,
        )


def _close_looks(is_global: Tensor | None, looks: int) -> Tensor | None:
    """Positions of the looks that need a high-resolution pass, at least one; None: all looks do.

    Raises:
        VilaHDError: ``is_global`` has another length.
    """
    if is_global is None:
        return None
    if is_global.shape != (looks,):
        raise VilaHDError(f"is_global has shape {tuple(is_global.shape)}: use ({looks},)")
    if not bool(is_global.any()):
        return None
    close = (~is_global.bool()).nonzero()[:, 0]
    return close if len(close) else close.new_zeros(1)


AutoModel.register(PS3TextConfig, PS3TextModel, exist_ok=True)
AutoModel.register(PS3Config, PS3Model, exist_ok=True)
