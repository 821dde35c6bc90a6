"""How closely to look: the one options object of the tower, the model, the command line and the server."""

import math
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from .errors import VilaHDError

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the original picture, after EXIF rotation."""


Guide = Literal["prompt", "saliency", "random"]
"""What can steer the choice without being told places."""

GUIDES: tuple[Guide, ...] = get_args(Guide)


PruningMethod = Literal["tome", "fastv", "visionzip"]
PRUNING_METHODS: tuple[PruningMethod, ...] = ("tome", "fastv", "visionzip")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Drop or merge visual tokens after the tower has made them all: what the choice of patches is compared
    with. See ``vila_hd.pruning``."""

    method: PruningMethod
    """``tome``: merge similar tokens; ``visionzip``: keep those that the tower attends to and merge the rest;
    ``fastv``: drop those that the language model's first blocks do not attend to (in generation only)."""

    keep: float
    """Share of a picture's visual tokens that stays, of all resolutions together: above 0, at most 1."""

    layer: int = 2
    """Blocks of the language model that still see every token; of ``fastv`` only."""

    def __post_init__(self) -> None:
        if self.method not in PRUNING_METHODS:
            raise VilaHDError(f"pruning method {self.method!r}: use {', '.join(PRUNING_METHODS)}")
        if not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise VilaHDError(f"pruning keep={self.keep!r}: use a share above 0 and up to 1, such as 0.5")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 1:
            raise VilaHDError(f"pruning layer={self.layer!r}: use a number of blocks >= 1")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pruning that ``METHOD:KEEP`` names, such as ``visionzip:0.25``; ``fastv:0.5:3`` adds the layer.

        Raises:
            VilaHDError: it names none.
        """
        method, *numbers = text.split(":")
        try:
            keep, layer = float(numbers[0]), int(numbers[1]) if len(numbers) == 2 else cls.layer
        except (ValueError, IndexError):
            keep, layer = math.nan, 0
        if len(numbers) > 1 + (method == "fastv") or method not in PRUNING_METHODS or layer < 1:
            raise VilaHDError(
                f"pruning {text!r}: use METHOD:KEEP with one of {', '.join(PRUNING_METHODS)}, such as "
                "fastv:0.5"
            )
        return cls(method=cast(PruningMethod, method), keep=keep, layer=layer)

    def __str__(self) -> str:
        """What ``parse`` reads."""
        text = f"{self.method}:{self.keep:g}"
        return text if self.layer == type(self).layer else f"{text}:{self.layer}"

    @property
    def in_language_model(self) -> bool:
        """Whether the language model gets all tokens and drops some itself."""
        return self.method == "fastv"

    def num_kept(self, tokens: int) -> int:
        """How many of a picture's ``tokens`` stay: rounded to the nearest number, at least one."""
        return max(1, math.floor(self.keep * tokens + 0.5))


@dataclass(frozen=True, kw_only=True)
class HighResOptions:
    """Choices of one call. No checkpoint stores them, and no environment variable changes them."""

    budget: int | Literal["auto", "all"] = "auto"
    """High-resolution patches per picture over all passes. ``auto``: the checkpoint's own default; ``all``:
    every patch of every scale; 0: low resolution only. More than there are is clamped to all."""

    guided_by: Literal["prompt", "saliency", "random", "regions"] = "prompt"
    """What steers the choice. ``prompt``: the question; ``saliency``: the picture alone; ``random``: nothing
    (a baseline: scores drawn from the picture's pixels, the same ones every time); ``regions``: patches that
    touch ``regions`` come first, the rest of the budget follows the question."""

    regions: tuple[tuple[Box, ...], ...] = ()
    """Boxes per picture, in pixels of the original picture; only with ``guided_by="regions"``."""

    only_regions: bool = False
    """Choose nothing outside of ``regions``; inside, the scores decide what comes first, and the budget ends
    where the regions do."""

    per_scale: tuple[int, ...] | None = None
    """Patches of each high-resolution scale in one pass, low scale first; None: the checkpoint's own."""

    max_scale: int | None = None
    """Largest scale to look at, in pixels (one of the checkpoint's scales); None: all scales."""

    smooth: bool = False
    """Average the score map over 6 x 6 blocks first, for an even spread over the picture."""

    return_maps: bool = False
    """Also return score maps at the resolution of every scale (costs memory at 4K)."""

    pruning: Pruning | None = None
    """Which visual tokens the language model gets of those that were made; None: the checkpoint's own way,
    usually all."""

    def __post_init__(self) -> None:
        if isinstance(self.budget, str):
            if self.budget not in ("auto", "all"):
                raise VilaHDError(f"budget={self.budget!r}: use a number of patches, 'auto' or 'all'")
        elif isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 0:
            raise VilaHDError(f"budget={self.budget!r}: use a number of patches >= 0, 'auto' or 'all'")
        if self.guided_by not in (*GUIDES, "regions"):
            raise VilaHDError(
                f"guided_by={self.guided_by!r}: use 'prompt', 'saliency', 'random' or 'regions'"
            )
        if (self.guided_by == "regions") != bool(self.regions):
            raise VilaHDError(
                f"guided_by={self.guided_by!r} with {len(self.regions)} region list(s): give one list of "
                "boxes per picture together with guided_by='regions'"
            )
        if self.only_regions and not self.regions:
            raise VilaHDError("only_regions=True without regions: give boxes with guided_by='regions'")
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
