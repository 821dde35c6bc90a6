"""PS3 vision tower as a transformers model: loading, saving, initialisation, and the documented calls.

Letters used for shapes in this file:
    B = pictures, L = looks (uses of a picture), g = side of the low-resolution grid, K = chosen patches of
    a look, D = width.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..errors import VilaHDError
from ..options import HighResOptions
from .checkpoint import fill_from_shapes, read_shapes
from .configuration_ps3 import PS3VisionConfig
from .configuration_trunk import TrunkConfig
from .embeddings import PatchProjection, sine_positions
from .encoder import PS3VisionEncoder
from .layers import AttentionPool, ConvNeXtBlock
from .outputs import HighRes, LowRes, PS3VisionOutput
from .plans import PassPlan
from .regions import Regions
from .selection import PatchSelection
from .strict_loading import StrictLoadingMixin
from .trunk import Trunk
from .vision_encoder import Pixels, Prompt, VisionEncoder

_LAYER_SCALE_INIT = 0.1
_POSITION_SCALE = 0.5
_HUB_ARGUMENTS = ("revision", "local_files_only", "token", "cache_dir", "subfolder")


class PS3PreTrainedModel(StrictLoadingMixin, PreTrainedModel):
    """Initialisation and strict loading shared by the PS3 models with a vision tower."""

    config_class = PS3VisionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["Block"]  # noqa: RUF012  # transformers' own convention

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PatchProjection):
            init.lecun_normal_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Trunk):
            side = round(module.pos_embed.shape[1] ** 0.5)
            table = _POSITION_SCALE * sine_positions(side, module.pos_embed.shape[2])
            init.copy_(module.pos_embed, table)
        elif isinstance(module, AttentionPool):
            init.normal_(module.latent, std=module.latent.shape[-1] ** -0.5)
        elif isinstance(module, ConvNeXtBlock):
            init.constant_(module.weight, _LAYER_SCALE_INIT)
        elif isinstance(module, PS3VisionEncoder):
            init.normal_(module.prior_prompt, std=1.0)
            for table in module.pos_emb_residual or ():
                init.zeros_(table)

    @classmethod
    def complete_config(cls, config: PreTrainedConfig, source: str, hub: dict[str, Any]) -> None:
        """Fill in ``config`` what the folder's tensors tell better than its config.json."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Return the model stored in a folder or hub repository, in eval mode.

        Combined files (``PS3Model``) and folders that hold only this part are both read; tensors of the
        other parts are skipped. All arguments are those of transformers; architecture keys such as
        ``num_attention_heads`` override the stored config.

        Raises:
            VilaHDError: tensors are missing, unexpected, of the wrong shape or not finite.
        """
        source = str(pretrained_model_name_or_path)
        if not isinstance(kwargs.get("config"), PreTrainedConfig):
            hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
            fields = {field.name for field in dataclasses.fields(cls.config_class)} - {"dtype"}
            changes = {key: kwargs.pop(key) for key in fields & set(kwargs)}
            try:
                config = cls.config_class.from_pretrained(kwargs.get("config") or source, **changes, **hub)
            except OSError as error:
                raise VilaHDError(
                    f"cannot load {cls.__name__} from {source}: {str(error).splitlines()[0]}"
                ) from error
            cls.complete_config(config, source, hub)
            kwargs["config"] = config
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


class VisionTowerModel(PS3PreTrainedModel):
    """A vision encoder as a transformers model. Every kind takes the calls below."""

    encoder_class: ClassVar[type[VisionEncoder]]

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config)
        self.vision_model = self.encoder_class(config)
        self.post_init()

    @classmethod
    def complete_config(cls, config: PreTrainedConfig, source: str, hub: dict[str, Any]) -> None:
        """Read trunk sizes that the config does not state from the stored tensors."""
        open_keys = ("num_hidden_layers", "intermediate_size", "position_grid_size")
        if any(getattr(config, key) is None for key in open_keys):
            fill_from_shapes(config, read_shapes(source, hub))

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch projection."""
        return self.vision_model.trunk.patch_embed.proj

    def encode_low_res(
        self,
        pixel_values: Pixels,
        *,
        layers: Sequence[int] = (-1,),
        keep_cache: bool = True,
        taps: bool = True,
        pool: bool = False,
    ) -> LowRes:
        """Encode the square low-resolution view of every picture.

        Args:
            pixel_values: ``(B, 3, H, W)`` or a list of ``(3, H, W)`` of any sizes. Floats are normalised
                already; ``uint8`` is raw RGB.
            layers: blocks whose outputs are wanted; -1 is the last one's, before the final norm. Later
                blocks are not run unless something else needs them.
            keep_cache: keep keys and values for ``encode_high_res``.
            taps: keep what ``score`` reads.
            pool: also return the attention-pooled vector.

        Raises:
            VilaHDError: a picture has the wrong shape or dtype, or a layer does not exist.
        """
        return self.vision_model.encode_low_res(
            pixel_values, layers=layers, keep_cache=keep_cache, taps=taps, pool=pool
        )

    def score(
        self,
        low: LowRes,
        prompt: Tensor | None = None,
        *,
        look_index: Tensor | None = None,
        random: bool = False,
    ) -> Tensor:
        """Return how interesting every low-resolution cell is: probabilities ``(L, g, g)``.

        Args:
            low: from ``encode_low_res``.
            prompt: ``(L, D)`` what to look for; None: the learned saliency prompt.
            look_index: ``(L,)`` the picture of every look; None: look i shows picture i.
            random: draw them instead, from the pixels of each picture.
        """
        return self.vision_model.score(low, prompt, look_index=look_index, random=random)

    def select(
        self,
        low: LowRes,
        scores: Tensor,
        *,
        options: HighResOptions,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        plans: Sequence[PassPlan] | None = None,
        taken: PatchSelection | None = None,
    ) -> PatchSelection:
        """Choose the patches to encode. Never differentiable.

        Args:
            low: from ``encode_low_res``.
            scores: ``(L, g, g)`` from ``score``.
            options: budget, split, scales, smoothing. Its own ``regions`` are not read here: they are in
                pixels of the original picture, which the tower does not know.
            regions: one entry per look; patches in them come first.
            look_index: ``(L,)`` the picture of every look; None: look i shows picture i.
            plans: per look, patches of every pass and scale; None: from ``options``.
            taken: patches of earlier choices, which are not chosen again.

        Raises:
            VilaHDError: an option does not fit this tower, counts differ, or a score is not finite.
        """
        return self.vision_model.select(
            low, scores, options=options, regions=regions, look_index=look_index, plans=plans, taken=taken
        )

    def encode_high_res(
        self,
        low: LowRes,
        selection: PatchSelection,
        *,
        layers: Sequence[int] = (-1,),
        look_index: Tensor | None = None,
        pool: bool = False,
        pool_regions: Regions | None = None,
    ) -> HighRes:
        """Encode the chosen patches of every look. They read the low-resolution keys and values of their
        picture.

        Args:
            low: from ``encode_low_res`` with ``keep_cache``.
            selection: from ``select``.
            layers: blocks whose outputs are wanted; later blocks are not run unless pooling needs them.
            look_index: ``(L,)`` the picture of every look; None: look i shows picture i.
            pool: also pool the chosen patches.
            pool_regions: pool only patches in these regions (all patches of a look whose region holds none).
        """
        return self.vision_model.encode_high_res(
            low, selection, layers=layers, look_index=look_index, pool=pool, pool_regions=pool_regions
        )

    def forward(
        self,
        pixel_values: Pixels,
        prompt: Prompt | None = None,
        *,
        options: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        layers: Sequence[int] = (-1,),
        pool: bool = False,
        pool_regions: Regions | None = None,
        saliency: bool = False,
    ) -> PS3VisionOutput:
        """Run all passes. One call holds a whole training step, as ZeRO-3 needs it.

        Args:
            pixel_values: see ``encode_low_res``.
            prompt: ``(L, D)`` what to look for, or a function that makes it from the ``LowRes``. Without
                it, and with ``guided_by="saliency"``, the learned saliency prompt guides the choice; with
                ``guided_by="random"`` nothing does.
            options: how closely to look; None: the defaults. Budget 0 ends after the low-resolution pass.
            regions: see ``select``; needed with ``guided_by="regions"``.
            look_index: ``(L,)`` the picture of every look; None: look i shows picture i.
            layers: see ``encode_low_res``; empty when only the pooled output is wanted.
            pool: attention-pool the chosen patches (and, in ``low.pooled``, the low-resolution tokens).
            pool_regions: see ``encode_high_res``.
            saliency: also compute the saliency scores when a prompt guides the choice.

        Raises:
            VilaHDError: see ``encode_low_res`` and ``select``.
        """
        return self.vision_model(
            pixel_values,
            prompt,
            options=options,
            regions=regions,
            look_index=look_index,
            layers=layers,
            pool=pool,
            pool_regions=pool_regions,
            saliency=saliency,
        )


class PS3VisionModel(VisionTowerModel):
    """Multi-scale vision tower: sees the whole picture small, and the patches that matter at full
    resolution."""

    encoder_class = PS3VisionEncoder
    # A combined file also holds the text tower; its tensors are not for this class.
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^logit_scale$", r"^logit_bias$"]  # noqa: RUF012


AutoConfig.register(PS3VisionConfig.model_type, PS3VisionConfig, exist_ok=True)
AutoModel.register(PS3VisionConfig, PS3VisionModel, exist_ok=True)

__all__ = ["PS3PreTrainedModel", "PS3VisionModel", "VisionTowerModel"]
