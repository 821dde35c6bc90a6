"""The PS3 package's interface over ``vila_hd.ps3``: code written for ``ps3`` changes one import.

The classes take the published call arguments and return the published fields; what they compute is ours.
Where the published behaviour was an error or lost information it is mended; where numbers depend on it, it is
kept. Both are said at the place.

Shape suffixes used in this file:
    B = pictures, N = tokens, D = width, H = high-resolution scales, h/w = rows/columns of one scale's grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3 import modeling_ps3, modeling_ps3_dual
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.encoder import PS3VisionEncoder as _Encoder
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
from vila_hd.ps3.modeling_ps3_text import PS3TextModel
from vila_hd.ps3.outputs import LowRes
from vila_hd.ps3.plans import PassPlan, plan_passes_published
from vila_hd.ps3.selection import Grids, PatchSelection, features_to_maps, score_maps
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer

from .ps3_calls import Count, PublishedCall, check_call, check_counts

__all__ = [
    "PS3Config",
    "PS3ImageProcessor",
    "PS3Model",
    "PS3TextConfig",
    "PS3TextModel",
    "PS3Tokenizer",
    "PS3VisionConfig",
    "PS3VisionEncoder",
    "PS3VisionModel",
    "PS3VisionModelOutput",
]


@dataclass
class PS3VisionModelOutput(ModelOutput):
    """The published output fields, and the selection behind them."""

    last_hidden_state: Tensor | None = None
    """``(B, N, D)``: last block before the trunk's norm; low-resolution tokens, then chosen patches."""

    hidden_states: list[Tensor] | None = None
    """The same for the last ``num_hidden_layers_to_return`` blocks; for all blocks after a low-resolution
    pass."""

    pooled_output: Tensor | None = None
    """``(B, O)``; only with ``output_hidden_states=False``."""

    selection_maps: list[Tensor] | None = None
    """Per high-resolution scale ``(B, h, w)``: 1 where chosen, in the dtype of the features."""

    selection_probs: list[Tensor] | None = None
    """Per high-resolution scale ``(B, h, w)``: what the choice was made by."""

    bottomup_selection_probs: list[Tensor] | None = None
    """As ``selection_probs``, without a prompt; only with ``output_hidden_states=False``."""

    topdown_selection_probs: list[Tensor] | None = None
    """As ``selection_probs``, with the prompt; only with ``output_hidden_states=False``."""

    selection: PatchSelection | None = None
    """The chosen patches with the pass that chose them. Not a published field."""


class PS3VisionEncoder(_Encoder):
    """The tower with the attributes that scripts read and set on ``model.vision_model``."""

    def __init__(self, config: PS3VisionConfig) -> None:
        super().__init__(config)
        self.num_hidden_layers_to_return = self.layers
        self._max_select_num_each_scale: tuple[int, ...] | None = None

    @property
    def ps3_scales(self) -> list[int]:
        """All scales in pixels, low to high."""
        return list(self.config.ps3_scales)

    @property
    def s3_scales(self) -> list[int]:
        """The older name of ``ps3_scales``. VILA reads it, and newer published versions lack it (quirk 1,
        mended)."""
        return self.ps3_scales

    @property
    def low_res_token_num(self) -> int:
        """Tokens of the low-resolution view."""
        return self.config.low_res_grid**2

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """Blocks of the trunk."""
        return len(self.trunk.blocks)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels. Right for 16-pixel trunks too (the published constant is 14: quirk 12,
        mended)."""
        return self.config.patch_size

    @property
    def max_select_num_each_scale(self) -> list[int]:
        """Patches of each high-resolution scale in one pass. May be set; changes this object only."""
        return list(self._max_select_num_each_scale or self.config.patches_per_pass)

    @max_select_num_each_scale.setter
    def max_select_num_each_scale(self, value: Sequence[int]) -> None:
        numbers = tuple(value)
        count = len(self.config.high_scales)
        whole = all(
            isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers
        )
        if len(numbers) != count or not whole or not sum(numbers):
            raise VilaHDError(
                f"max_select_num_each_scale={list(numbers)}: use {count} whole numbers, one for each of the "
                f"scales {self.config.high_scales}, not all zero"
            )
        self._max_select_num_each_scale = numbers

    def token_selection_param_names(self) -> list[str]:
        """Names, within this module, of the parameters that only choose patches."""
        parts = ("selection_feature_proj", "highres_selection_feature_module", "prompt_proj_for_highres")
        return [name for name, _ in self.named_parameters() if name.startswith(parts)]

    def format_features_into_feature_maps(
        self, features: Tensor, selection_maps: Sequence[Tensor]
    ) -> list[Tensor]:
        """Features as pictures, low resolution first, ``(B, D, h, w)`` each, zeros where nothing was chosen.

        Args:
            features: ``(B, N, D)``, as in ``last_hidden_state``.
            selection_maps: as in the output they belong to.

        Raises:
            VilaHDError: the maps choose another number of patches than there are features.
        """
        low, high = features[:, : self.low_res_token_num], features[:, self.low_res_token_num :]
        selection = PatchSelection.from_maps([list(maps) for maps in zip(*selection_maps, strict=True)])
        if selection.index.shape != high.shape[:2]:
            raise VilaHDError(
                f"selection_maps choose {tuple(selection.index.shape)} patches (pictures, each), the "
                f"features hold {tuple(high.shape[:2])}: use the maps of the same output"
            )
        return _stack_scales(features_to_maps(low, high, selection))

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        num_look_close: Count = None,
        num_token_look_close: Count = None,
        prompt: Tensor | None = None,
        gt_selection_maps: Tensor | None = None,
        smooth_selection_prob: bool = False,
        only_select_first_n_scale: int | Sequence[int] | None = None,
        is_global_text: Tensor | None = None,
        pool_gt_token_only: bool = False,
        output_hidden_states: bool = True,
    ) -> PS3VisionModelOutput:
        """See ``PS3VisionModel.forward``."""
        if not isinstance(x, Tensor) or x.ndim != 4:
            raise VilaHDError(
                "pixel_values is not a tensor of shape (pictures, 3, rows, columns): stack the pictures"
            )
        if not 1 <= self.num_hidden_layers_to_return <= self.layers:
            raise VilaHDError(
                f"num_hidden_layers_to_return={self.num_hidden_layers_to_return}: use 1 to {self.layers}"
            )
        call = check_call(
            len(x),
            len(self.config.high_scales),
            num_look_close=num_look_close,
            num_token_look_close=num_token_look_close,
            gt_selection_maps=gt_selection_maps,
            smooth_selection_prob=smooth_selection_prob,
            only_select_first_n_scale=only_select_first_n_scale,
            is_global_text=is_global_text,
            pool_gt_token_only=pool_gt_token_only,
            output_hidden_states=output_hidden_states,
        )
        if prompt is not None and prompt.shape != (len(x), self.width):
            raise VilaHDError(f"prompt has shape {tuple(prompt.shape)}: use {(len(x), self.width)}")
        returned = self.layers if call.low_res_only else self.num_hidden_layers_to_return
        layers = () if call.pretraining else tuple(range(-returned, 0))
        close = not call.low_res_only
        low = self.encode_low_res(x, layers=layers, keep_cache=close, pool=call.pretraining)
        bottomup, topdown = self.score(low), None if prompt is None else self.score(low, prompt)
        scores = bottomup if topdown is None else topdown
        probs = _stack_scales(score_maps(scores, low.grids, regions=call.regions, smooth=call.smooth))
        if not close:
            states = list(low.features)
            return PS3VisionModelOutput(
                last_hidden_state=states[-1], hidden_states=states, selection_probs=probs
            )
        selection = self.select(
            low,
            scores,
            options=HighResOptions(smooth=call.smooth),
            regions=call.regions,
            plans=self._plans(low.grids, call),
        )
        check_counts(selection)
        output = (
            self._pool(low, selection, call) if call.pretraining else self._features(low, selection, layers)
        )
        output.selection_maps = [maps.to(low.taps) for maps in _stack_scales(selection.maps())]
        output.selection_probs = probs
        output.selection = selection
        if call.pretraining:
            # What the selection loss is computed on: neither overwritten by the maps nor smoothed.
            output.bottomup_selection_probs = _stack_scales(score_maps(bottomup, low.grids))
            if topdown is not None:
                output.topdown_selection_probs = _stack_scales(score_maps(topdown, low.grids))
        return output

    def _plans(self, grids: Sequence[Grids], call: PublishedCall) -> list[PassPlan]:
        sizes = [rows * columns for rows, columns in grids[0]]
        first = call.first_scales
        return [
            plan_passes_published(
                sizes,
                self.max_select_num_each_scale,
                num_passes=1 if call.pretraining else call.num_look_close,
                num_patches=call.num_token_look_close,
                first_scales=None if first is None else first[look],
                widest_scales=None if first is None else max(first),
                rounding=self.config.rounding,
            )
            for look in range(len(grids))
        ]

    def _features(
        self, low: LowRes, selection: PatchSelection, layers: tuple[int, ...]
    ) -> PS3VisionModelOutput:
        high = self.encode_high_res(low, selection, layers=layers)
        pairs = zip(low.features, high.features, strict=True)
        states = [torch.cat([near, far], dim=1) for near, far in pairs]
        return PS3VisionModelOutput(last_hidden_state=states[-1], hidden_states=states)

    def _pool(self, low: LowRes, selection: PatchSelection, call: PublishedCall) -> PS3VisionModelOutput:
        high = self.encode_high_res(low, selection, layers=(), pool=True, pool_regions=call.pool_regions)
        pooled = high.pooled
        if call.is_global is not None:
            assert low.pooled is not None
            assert pooled is not None
            pooled = torch.where(call.is_global, low.pooled, pooled)
        return PS3VisionModelOutput(pooled_output=pooled)


class PS3VisionModel(modeling_ps3.PS3VisionModel):
    """The vision tower with the published call.

    ``from_pretrained(..., budget_rounding="floor")`` splits budgets as the published wheel 0.1.3 does; the
    default ``"remainder"`` is that of its newest source.
    """

    encoder_class = PS3VisionEncoder

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        num_look_close: Count = None,
        num_token_look_close: Count = None,
        prompt: Tensor | None = None,
        gt_selection_maps: Tensor | None = None,
        smooth_selection_prob: bool = False,
        only_select_first_n_scale: int | Sequence[int] | None = None,
        is_global_text: Tensor | None = None,
        pool_gt_token_only: bool = False,
        output_hidden_states: bool = True,
    ) -> PS3VisionModelOutput:
        """Features of pictures, or pooled vectors for pre-training.

        Args:
            pixel_values: ``(B, 3, rows, columns)``, normalised.
            num_look_close: Passes, ``"all"`` for every patch, 0 for low resolution only; clamped to what
                covers the picture (quirk 4, kept).
            num_token_look_close: Patches over all passes, ``"all"`` (an error in the published code: quirk 2,
                mended) or 0. With ``num_look_close=1`` it limits that pass; with more passes the two
                contradict each other and are refused (quirk 3: the published code failed by accident).
            prompt: ``(B, D)`` what to look for; None: what stands out.
            gt_selection_maps: ``(B, rows, columns)`` of any size: patches where it is positive are chosen
                first. An integer map loses partly covered cells (quirk 9, kept).
            smooth_selection_prob: Average the probabilities over 6 x 6 blocks.
            only_select_first_n_scale: Favour the first so many high-resolution scales, for all pictures or
                one number for each; the published arithmetic, which is not a strict limit (quirk 5, kept).
            is_global_text: ``(B, 1)`` or ``(B,)`` bool: pool the low-resolution tokens of these pictures.
            pool_gt_token_only: Pool only patches in ``gt_selection_maps``, all of them where it is empty.
            output_hidden_states: True: features; one of the two counts is needed. False: one pass and
                ``pooled_output`` (pre-training); neither count may be given.

        Raises:
            VilaHDError: arguments that have a value they cannot have, contradict each other, or lead to
                different numbers of patches within the batch.
        """
        return self.vision_model(
            pixel_values,
            num_look_close=num_look_close,
            num_token_look_close=num_token_look_close,
            prompt=prompt,
            gt_selection_maps=gt_selection_maps,
            smooth_selection_prob=smooth_selection_prob,
            only_select_first_n_scale=only_select_first_n_scale,
            is_global_text=is_global_text,
            pool_gt_token_only=pool_gt_token_only,
            output_hidden_states=output_hidden_states,
        )


class PS3Model(modeling_ps3_dual.PS3Model):
    """Vision and text tower with the published calls."""

    vision_class = PS3VisionEncoder

    def encode_image(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        num_look_close: Count = None,
        num_token_look_close: Count = None,
        prompt: Tensor | None = None,
        gt_selection_maps: Tensor | None = None,
        smooth_selection_prob: bool = False,
        only_select_first_n_scale: int | Sequence[int] | None = None,
        is_global_text: Tensor | None = None,
        pool_gt_token_only: bool = False,
        output_hidden_states: bool = True,
    ) -> PS3VisionModelOutput:
        """See ``PS3VisionModel.forward``. One number for ``only_select_first_n_scale`` works here too (quirk
        11)."""
        return self.vision_model(
            pixel_values,
            num_look_close=num_look_close,
            num_token_look_close=num_token_look_close,
            prompt=prompt,
            gt_selection_maps=gt_selection_maps,
            smooth_selection_prob=smooth_selection_prob,
            only_select_first_n_scale=only_select_first_n_scale,
            is_global_text=is_global_text,
            pool_gt_token_only=pool_gt_token_only,
            output_hidden_states=output_hidden_states,
        )

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> None:  # type: ignore[override]
        """Refuse: the published model has no call of its own.

        Raises:
            VilaHDError: always.
        """
        raise VilaHDError(
            "PS3Model of llava_compat has no forward: call encode_image or encode_text, or train the "
            "PS3Model of vila_hd.ps3"
        )


def _stack_scales(maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Maps per picture and scale as one tensor per scale."""
    return [torch.stack(scale) for scale in zip(*maps, strict=True)]
