"""Towers that see whole pictures with the trunk of a PS3 tower: baselines to compare PS3 with.

They choose nothing: every picture is seen completely, at a cost that follows its size.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from ..errors import VilaHDError
from ..options import HighResOptions
from ..ps3.configuration_trunk import TrunkConfig, one_of
from .tiling import choose_tiles


@strict
class WholePictureConfig(TrunkConfig):
    """What these towers share."""

    base_config_key = "vision_config"
    beyond: ClassVar[Literal["all"] | int] = 0
    """Patches that are seen beyond the first view."""

    def fit_options(self, options: HighResOptions) -> HighResOptions:
        """``options`` with the budget that this tower always has, or 0 for its first view alone; nothing
        guides it.

        Raises:
            VilaHDError: they ask for a choice of patches.
        """
        if options.budget not in (0, "auto", "all"):
            raise VilaHDError(
                f"budget={options.budget}: {self.model_type} sees whole pictures; use auto, all or 0"
            )
        for name, default in (("per_scale", None), ("max_scale", None), ("smooth", False)):
            if getattr(options, name) != default:
                raise VilaHDError(
                    f"{name}={getattr(options, name)}: {self.model_type} chooses no patches; leave it out"
                )
        if options.guided_by not in ("prompt", "saliency"):
            raise VilaHDError(
                f"guided_by={options.guided_by!r}: {self.model_type} chooses no patches; leave it out"
            )
        return replace(options, budget=0 if options.budget == 0 else self.beyond, guided_by="saliency")


@strict
class LowResVisionConfig(WholePictureConfig):
    """The trunk alone: one square view of every picture."""

    model_type = "vila_hd_low_res_vision"

    ps3_scales: list[int] | tuple[int, ...] = (378,)

    def _check(self) -> None:
        super()._check()
        if len(self.ps3_scales) != 1:
            raise VilaHDError(f"ps3_scales={self.ps3_scales}: a low-resolution tower has one scale")


@strict
class AnyResVisionConfig(WholePictureConfig):
    """AnyRes: a square view of the whole picture, then its tiles, each seen like a picture of its own."""

    model_type = "vila_hd_anyres_vision"
    beyond = "all"

    ps3_scales: list[int] | tuple[int, ...] = (378,)
    """Side of the view and of every tile, in pixels."""
    max_tiles: int = 16
    """Most tiles of a picture; how many it has follows from its shape."""

    def _check(self) -> None:
        super()._check()
        if len(self.ps3_scales) != 1 or self.max_tiles < 1:
            raise VilaHDError(
                f"ps3_scales={self.ps3_scales}, max_tiles={self.max_tiles}: AnyRes has one scale, the side "
                "of its tiles, and at least one tile"
            )

    @property
    def most_squares(self) -> int:
        """The first view and all tiles."""
        return 1 + self.max_tiles

    def tile_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches of a picture's tiles together; (0, 0) where the first view is enough."""
        rows, columns = choose_tiles(height, width, tile=self.ps3_scales[0], max_tiles=self.max_tiles)
        side = self.low_res_grid if rows * columns > 1 else 0
        return rows * side, columns * side

    def scales_of(self, grids: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Longest side of all tiles together, in pixels."""
        return tuple(max(grid) * self.patch_size for grid in grids)


@strict
class S2VisionConfig(WholePictureConfig):
    """S2: square views at several scales, larger ones in tiles; their features stand behind one another in
    the channels of one map."""

    model_type = "vila_hd_s2_vision"

    ps3_scales: list[int] | tuple[int, ...] = (378, 756, 1512)
    """Sides of the views in pixels: the trunk's own, and multiples of it."""
    output_scale: str = "largest"
    """Scale whose grid the map has: ``largest`` keeps every detail, ``smallest`` the number of tokens."""

    def _check(self) -> None:
        super()._check()
        one_of("output_scale", self.output_scale, ("largest", "smallest"))
        if any(scale % self.ps3_scales[0] for scale in self.ps3_scales):
            raise VilaHDError(
                f"ps3_scales={self.ps3_scales}: S2 cuts views into tiles of {self.ps3_scales[0]} pixels, use "
                "multiples of it"
            )

    @property
    def feature_grid(self) -> int:
        """Side of the map in patches."""
        scale = self.ps3_scales[-1 if self.output_scale == "largest" else 0]
        return scale // self.ps3_scales[0] * self.low_res_grid

    @property
    def most_squares(self) -> int:
        """The tiles of all scales."""
        return sum((scale // self.ps3_scales[0]) ** 2 for scale in self.ps3_scales)

    @property
    def feature_width(self) -> int:
        """Numbers per patch of all scales."""
        return len(self.ps3_scales) * self.hidden_size


def trunk_values(config: TrunkConfig) -> dict[str, Any]:
    """What of a tower's configuration describes its trunk, its way to resize and to normalise."""
    derived = ("image_size", "vision_tower_name", "ps3_scales")
    names = [name for name in TrunkConfig.__annotations__ if name not in (*derived, "min_scales")]
    return {name: getattr(config, name) for name in names}


for _config in (LowResVisionConfig, AnyResVisionConfig, S2VisionConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
del _config

__all__ = ["AnyResVisionConfig", "LowResVisionConfig", "S2VisionConfig", "WholePictureConfig", "trunk_values"]
