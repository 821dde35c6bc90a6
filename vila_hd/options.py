"""How closely to look: the one options object of the tower, the model, the command line and the server."""

from dataclasses import dataclass
from typing import Literal

from .errors import VilaHDError

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the original picture, after EXIF rotation."""


@dataclass(frozen=True, kw_only=True)
class HighResOptions:
    """Choices of one call. No checkpoint stores them, and no environment variable changes them."""

    budget: int | Literal["auto", "all"] = "auto"
    """High-resolution patches per picture over all passes. ``auto``: the checkpoint's own default; ``all``:
    every patch of every scale; 0: low resolution only. More than there are is clamped to all."""

    guided_by: Literal["prompt", "saliency", "regions"] = "prompt"
    """What steers the choice. ``prompt``: the question; ``saliency``: the picture alone; ``regions``: patches
    that touch ``regions`` come first, the rest of the budget follows the question."""

    regions: tuple[tuple[Box, ...], ...] = ()
    """Boxes per picture, in pixels of the original picture; only with ``guided_by="regions"``."""

    per_scale: tuple[int, ...] | None = None
    """Patches of each high-resolution scale in one pass, low scale first; None: the checkpoint's own."""

    max_scale: int | None = None
    """Largest scale to look at, in pixels (one of the checkpoint's scales); None: all scales."""

    smooth: bool = False
    """Average the score map over 6 x 6 blocks first, for an even spread over the picture."""

    return_maps: bool = False
    """Also return score maps at the resolution of every scale (costs memory at 4K)."""

    def __post_init__(self) -> None:
        if isinstance(self.budget, str):
            if self.budget not in ("auto", "all"):
                raise VilaHDError(f"budget={self.budget!r}: use a number of patches, 'auto' or 'all'")
        elif isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 0:
            raise VilaHDError(f"budget={self.budget!r}: use a number of patches >= 0, 'auto' or 'all'")
        if self.guided_by not in ("prompt", "saliency", "regions"):
            raise VilaHDError(f"guided_by={self.guided_by!r}: use 'prompt', 'saliency' or 'regions'")
        if (self.guided_by == "regions") != bool(self.regions):
            raise VilaHDError(
                f"guided_by={self.guided_by!r} with {len(self.regions)} region list(s): give one list of "
                "boxes per picture together with guided_by='regions'"
            )
        for boxes in self.regions:
            for box in boxes:
                if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                    raise VilaHDError(
                        f"region {box}: use (x1, y1, x2, y2) in pixels with x1 < x2 and y1 < y2"
                    )
        if self.per_scale is not None and (
            not self.per_scale
            or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in self.per_scale)
            or not sum(self.per_scale)
        ):
            raise VilaHDError(
                f"per_scale={self.per_scale}: use one number of patches >= 0 per high-resolution scale, "
                "not all zero"
            )
