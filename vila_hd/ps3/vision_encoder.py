"""What every vision encoder of a VILA-HD model offers, and what all of them do with pictures.

Letters used for shapes in this file:
    B = pictures, L = looks (uses of a picture), g = side of the grid of the first view, N = tokens, K =
    patches beyond the first view of a look, D = width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import VilaHDError
from ..options import HighResOptions
from .configuration_trunk import TrunkConfig
from .embeddings import to_pixels
from .outputs import HighRes, LowRes, PS3VisionOutput
from .plans import PassPlan
from .regions import Regions
from .resampling import Method, Views, cut
from .selection import PatchSelection
from .trunk import Trunk

Pixels = Tensor | Sequence[Tensor]
"""``(B, 3, H, W)``, or one ``(3, H, W)`` per picture. Floats are normalised already, ``uint8`` is raw RGB."""

Prompt = Tensor | Callable[[LowRes], Tensor]
"""``(L, D)``, or a function that makes it from the first view."""


class VisionEncoder(nn.Module, ABC):
    """A way to see with one trunk. Every kind offers four steps, and ``forward``, which is all of them.

    1. ``encode_low_res``: the first view of every picture, which always has the same number of tokens.
    2. ``score``: how interesting each part of it is.
    3. ``select``: which patches to see beyond it.
    4. ``encode_high_res``: those patches.

    What the rest of a model must know about a kind without running it is told by its ``TrunkConfig``.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)

    @abstractmethod
    def encode_low_res(
        self,
        pixel_values: Pixels,
        *,
        layers: Sequence[int] = (-1,),
        keep_cache: bool = True,
        taps: bool = True,
        pool: bool = False,
    ) -> LowRes:
        """See ``VisionTowerModel.encode_low_res``."""

    @abstractmethod
    def score(
        self,
        low: LowRes,
        prompt: Tensor | None = None,
        *,
        look_index: Tensor | None = None,
        random: bool = False,
    ) -> Tensor:
        """See ``VisionTowerModel.score``."""

    @abstractmethod
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
        """See ``VisionTowerModel.select``."""

    @abstractmethod
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
        """See ``VisionTowerModel.encode_high_res``."""

    @abstractmethod
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
        """See ``VisionTowerModel.forward``."""

    # ---------------------------------------------------------------- pictures

    @property
    def method(self) -> Method:
        """How pictures are resized."""
        return "antialias" if self.config.resample == "antialias" else "bicubic"

    def views_of(self, low: LowRes) -> list[Views]:
        """Return the pictures of ``low`` with the reductions that were made of them so far."""
        if "views" not in low.memo:
            low.memo["views"] = [Views(picture, self.method) for picture in low.pictures]
        views: list[Views] = low.memo["views"]
        return views

    def square_cells(self, views: Sequence[Views], side: int, patch: int) -> Tensor:
        """Return square views, normalised and cut: ``(B, side // patch, side // patch, 3, patch, patch)``."""
        return torch.stack(
            [cut(self.normalise(view.resize((side, side)), view.picture), patch) for view in views]
        )

    def normalise(self, pixels: Tensor, picture: Tensor) -> Tensor:
        """Return pixels of ``picture`` as the model reads them: normalised, on its device, in its dtype."""
        weight = self.trunk.pos_embed
        pixels = pixels.to(weight.device)
        if picture.dtype == torch.uint8:
            mean, std = self.config.image_mean, self.config.image_std
            assert mean is not None
            assert std is not None
            return to_pixels(pixels, mean, std).to(weight.dtype)
        # Resized floats pass through the input's dtype, as in the reference.
        return pixels.to(picture.dtype).to(weight.dtype)


def check_pictures(pixel_values: Pixels) -> list[Tensor]:
    """The pictures of a call, one ``(3, rows, columns)`` each.

    Raises:
        VilaHDError: one of them is no picture, or there is none.
    """
    pictures = (
        list(pixel_values.unbind(0))
        if isinstance(pixel_values, Tensor) and pixel_values.ndim == 4
        else pixel_values
    )
    if isinstance(pictures, Tensor):
        raise VilaHDError(f"pixel_values has shape {tuple(pictures.shape)}: use (pictures, 3, rows, columns)")
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
            raise VilaHDError(f"a picture has shape {tuple(picture.shape)}: use (3, rows, columns)")
        if picture.dtype != torch.uint8 and not picture.is_floating_point():
            raise VilaHDError(
                f"a picture has dtype {picture.dtype}: use uint8 (raw RGB) or normalised floats"
            )
    if not len(pictures):
        raise VilaHDError("pixel_values holds no picture: pass at least one")
    return list(pictures)


def check_looks(look_index: Tensor | None, looks: int, pictures: int, device: torch.device) -> Tensor | None:
    """The picture of every look on ``device``; None when look i shows picture i.

    Raises:
        VilaHDError: numbers differ.
    """
    if look_index is None:
        if looks != pictures:
            raise VilaHDError(
                f"{looks} looks for {pictures} pictures: pass look_index, the picture of every look"
            )
        return None
    if look_index.ndim != 1 or len(look_index) != looks:
        raise VilaHDError(f"look_index has shape {tuple(look_index.shape)} for {looks} looks: use ({looks},)")
    return look_index.to(device=device, dtype=torch.long)


def layer_number(layer: int, depth: int) -> int:
    """Number of a block, from 0, for a layer that may be counted from the end.

    Raises:
        VilaHDError: there is no such block.
    """
    if not -depth <= layer < depth:
        raise VilaHDError(f"layer {layer}: the tower has {depth} blocks; use -{depth}..{depth - 1}")
    return layer % depth
