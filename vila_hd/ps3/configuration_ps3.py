"""Configuration of the PS3 vision tower: what a checkpoint needs to rebuild the architecture."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..errors import VilaHDError
from .configuration_trunk import TrunkConfig, one_of
from .plans import Rounding, default_budget_split


@strict
class PS3VisionConfig(TrunkConfig):
    """Multi-scale vision tower (PS3). The defaults are those of the published files.

    ``PS3VisionModel.from_pretrained`` reads sizes that ``model_name`` does not tell from the shapes of the
    stored tensors.
    """

    model_type = "ps3_vision_model"
    base_config_key = "vision_config"
    min_scales: ClassVar[int] = 2

    select_based_on_layer: list[int] | tuple[int, ...] = (0, 9, 18, 26)
    """Blocks whose outputs feed the selector."""
    max_select_num: int = 1280
    """Patches of one high-res pass, over all high-res scales."""
    max_select_num_each_scale: list[int] | tuple[int, ...] | None = None
    """Patches of one pass per high-res scale; None: split by pixel area."""
    budget_rounding: str = "remainder"
    """``remainder``: what rounding leaves goes to the last scale; ``floor``: it is dropped (ps3-torch
    0.1.3)."""
    separate_pos_emb: bool = True
    """Add a learned position table per high-res scale."""
    residual_grid_size: int | None = None
    """Side of those tables; None: one entry per patch (published); else a coarse table, interpolated."""
    reads_low_res: bool = True
    """High-resolution patches also attend to the low-resolution tokens (published); False: among themselves
    only."""
    highres_selection_feature: bool = True
    """Use the convolutional branch of the selector."""
    highres_selection_module_hidden_dim: int = 512
    highres_selection_module_out_dim: int = 512
    highres_selection_module_depth: int = 3
    highres_selection_module_kernel_size: int = 28
    selection_image_size: int = 1512
    """Side in pixels of the square view that the convolutional branch sees."""

    def __post_init__(self, **kwargs: Any) -> None:
        older = kwargs.pop("s3_scales", None)  # the key of ps3-torch 0.1.0 and 0.1.1
        if older is not None and tuple(self.ps3_scales) == (378, 756, 1512):
            self.ps3_scales = older
        self.select_based_on_layer = list(self.select_based_on_layer)
        if self.max_select_num_each_scale is not None:
            self.max_select_num_each_scale = list(self.max_select_num_each_scale)
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        super()._check()
        one_of("budget_rounding", self.budget_rounding, ("remainder", "floor"))
        split, scales = self.max_select_num_each_scale, len(self.high_scales)
        if split is not None and (len(split) != scales or min(split) < 0 or not sum(split)):
            raise VilaHDError(
                f"max_select_num_each_scale={split}: use {scales} numbers >= 0, one per high scale"
            )
        blocks = self.num_hidden_layers
        if blocks is not None and not all(-blocks <= i < blocks for i in self.select_based_on_layer):
            raise VilaHDError(
                f"select_based_on_layer={self.select_based_on_layer}: the trunk has {blocks} blocks, use "
                f"0..{blocks - 1}"
            )

    @property
    def chooses(self) -> bool:
        """True: it chooses patches."""
        return True

    @property
    def rounding(self) -> Rounding:
        """``budget_rounding``."""
        return "floor" if self.budget_rounding == "floor" else "remainder"

    @property
    def patches_per_pass(self) -> tuple[int, ...]:
        """Patches of each high-resolution scale in one pass."""
        if self.max_select_num_each_scale is not None:
            return tuple(self.max_select_num_each_scale)
        return default_budget_split(self.ps3_scales, self.max_select_num, rounding=self.rounding)

    @property
    def high_scales(self) -> tuple[int, ...]:
        """Longest side per high-resolution scale, in pixels."""
        return tuple(self.ps3_scales[1:])


__all__ = ["PS3VisionConfig"]
