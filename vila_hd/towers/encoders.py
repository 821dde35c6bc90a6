"""Encoders that see whole pictures with a PS3 trunk: low resolution, AnyRes, S2.

Shape suffixes and letters used in this file:
    B = pictures, L = looks, T = tiles, N = g * g tokens of a view or tile, K = patches of a look's tiles, C =
    trunk width, P = patch side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import VilaHDError
from ..options import HighResOptions
from ..ps3.outputs import HighRes, LowRes, PS3VisionOutput
from ..ps3.plans import PassPlan
from ..ps3.regions import Regions
from ..ps3.resampling import Views, cut
from ..ps3.selection import Grids, PatchSelection
from ..ps3.vision_encoder import (
    Pixels,
    Prompt,
    VisionEncoder,
    check_looks,
    check_pictures,
    layer_number,
)
from .configuration_towers import AnyResVisionConfig, S2VisionConfig, WholePictureConfig

_BATCH_TILES = 16
"""Tiles that run through the trunk together outside of training, to bound memory."""


class LowResEncoder(VisionEncoder):
    """One square view of every picture. The other encoders of this module add to it."""

    config: WholePictureConfig

    def encode_low_res(
        self,
        pixel_values: Pixels,
        *,
        layers: Sequence[int] = (-1,),
        keep_cache: bool = True,
        taps: bool = True,
        pool: bool = False,
    ) -> LowRes:
        """See every picture as a whole; there is nothing to keep for a choice."""
        pictures = check_pictures(pixel_values)
        views = [Views(picture, self.method) for picture in pictures]
        features, pooled = self.first_view(views, layers, pool=pool)
        low = LowRes(
            pictures=pictures,
            grids=tuple(self.grids(picture) for picture in pictures),
            features=features,
            cache=[],
            pooled=pooled,
            layers=tuple(layers),
        )
        low.memo["views"] = views
        return low

    def first_view(
        self, views: Sequence[Views], layers: Sequence[int], *, pool: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Features ``(B, N, C)`` per layer of the first view, and its pooled vector if wanted."""
        cells = self.square_cells(views, self.config.ps3_scales[0], self.config.patch_size)
        return self.run_squares(cells, layers, pool=pool)

    def run_squares(
        self, cells: Tensor, layers: Sequence[int], *, pool: bool = False
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Run square pictures of the trunk's own size.

        Args:
            cells: ``(T, g, g, 3, P, P)``.
            layers: blocks whose outputs are wanted.
            pool: also pool the last block's.

        Returns:
            ``(T, N, C)`` per layer, and ``(T, C)`` or None.
        """
        grid, depth = self.config.low_res_grid, len(self.trunk.blocks)
        wanted = [layer_number(layer, depth) for layer in layers]
        place = torch.arange(grid * grid, device=self.trunk.pos_embed.device)
        blocks = depth if pool else max(wanted, default=-1) + 1
        parts: list[dict[int, Tensor]] = []
        for part in cells.split(max(len(cells), 1) if torch.is_grad_enabled() else _BATCH_TILES):
            x = self.trunk.tokens(part.flatten(1, 2), grid, place // grid, place % grid)
            last, kept, _ = self.trunk.run(x, blocks=blocks, keep=set(wanted))
            parts.append({**kept, -1: self.trunk.pool(last, None)} if pool else kept)
        joined = {i: torch.cat([part[i] for part in parts]) for i in parts[0]}
        return tuple(joined[i] for i in wanted), joined.get(-1)

    def grids(self, picture: Tensor) -> Grids:
        """Rows and columns of patches per scale that is seen beyond the first view."""
        return ()

    def score(
        self,
        low: LowRes,
        prompt: Tensor | None = None,
        *,
        look_index: Tensor | None = None,
        random: bool = False,
    ) -> Tensor:
        """Everything is equally interesting."""
        if prompt is not None or random:
            raise VilaHDError(f"{self.config.model_type} chooses no patches: nothing can guide it")
        looks, grid = len(low.pictures) if look_index is None else len(look_index), self.config.low_res_grid
        return self.trunk.pos_embed.new_ones(looks, grid, grid)

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
        """Nothing is seen beyond the first view."""
        raise VilaHDError(f"{self.config.model_type} sees nothing beyond its first view: use budget=0")

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
        """Nothing is seen beyond the first view."""
        raise VilaHDError(f"{self.config.model_type} sees nothing beyond its first view: use budget=0")

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
        """See the pictures; ``options`` say whether beyond the first view. ``regions`` change nothing."""
        options = self.config.fit_options(options or HighResOptions(guided_by="saliency"))
        low = self.encode_low_res(pixel_values, layers=layers, pool=pool)
        looks = len(low.pictures) if look_index is None else len(look_index)
        index = check_looks(look_index, looks, len(low.pictures), self.trunk.pos_embed.device)
        states = tuple(near if index is None else near[index] for near in low.features)
        pooled = low.pooled if low.pooled is None or index is None else low.pooled[index]
        scores = selection = high = None
        if options.budget != 0:
            scores = self.score(low, look_index=index)
            selection = self.select(low, scores, options=options, look_index=index)
            high = self.encode_high_res(low, selection, layers=layers, look_index=index)
            states = tuple(
                torch.cat([near, far], dim=1) for near, far in zip(states, high.features, strict=True)
            )
        return PS3VisionOutput(
            last_hidden_state=states[-1] if states else None,
            hidden_states=states or None,
            pooled_output=pooled,
            low=low,
            high=high,
            selection=selection,
            scores=scores,
        )


class AnyResEncoder(LowResEncoder):
    """A square view of the whole picture, then all tiles of it, each run like a picture of its own."""

    config: AnyResVisionConfig

    def grids(self, picture: Tensor) -> Grids:
        """The grid of all tiles together."""
        return (self.config.tile_grid(picture.shape[1], picture.shape[2]),)

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
        """Every patch of every tile."""
        pictures = range(len(low.grids)) if look_index is None else look_index.tolist()
        grids = [low.grids[picture] for picture in pictures]
        sizes = torch.tensor([rows * columns for ((rows, columns),) in grids], device=scores.device)
        index = torch.arange(int(sizes.max()), device=scores.device).expand(len(grids), -1)
        seen = index < sizes[:, None]
        return PatchSelection(
            index=index.masked_fill(~seen, -1),
            passes=seen.long(),
            grids=tuple(grids),
            tile=self.config.low_res_grid,
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
        """Run the tiles of every picture, once for all of its looks."""
        if pool or pool_regions is not None:
            raise VilaHDError(f"{self.config.model_type} pools its first view only")
        tiles = [self._tiles(view, grid) for view, (grid,) in zip(self.views_of(low), low.grids, strict=True)]
        features_TNC, _ = self.run_squares(torch.cat(tiles), layers)
        counts = torch.tensor([len(entry) for entry in tiles], device=selection.index.device)
        picture = torch.arange(len(tiles)) if look_index is None else look_index
        first_L = (counts.cumsum(0) - counts)[picture.to(counts.device)] * self.config.low_res_grid**2
        within_LK, _ = selection.by_tile()
        place_LK = (first_L[:, None] + within_LK).masked_fill(~selection.mask, -1)
        return HighRes(features=tuple(_take(value.flatten(0, 1), place_LK) for value in features_TNC))

    def _tiles(self, view: Views, grid: tuple[int, int]) -> Tensor:
        """``(T, g, g, 3, P, P)``: tiles of one picture, row by row, normalised and cut into patches."""
        side, patch = self.config.low_res_grid, self.config.patch_size
        if not grid[0]:
            return self.trunk.pos_embed.new_zeros(0, side, side, 3, patch, patch)
        pixels = view.resize((grid[0] * patch, grid[1] * patch))
        return _cut_tiles(self.normalise(pixels, view.picture), side, patch)


class S2Encoder(LowResEncoder):
    """Square views at several scales, larger ones in tiles, joined in the channels of one map."""

    config: S2VisionConfig

    def first_view(
        self, views: Sequence[Views], layers: Sequence[int], *, pool: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Features ``(B, feature_grid ** 2, scales * C)`` per layer, and the smallest one's pooled."""
        config = self.config
        side, patch = config.low_res_grid, config.patch_size
        maps: list[list[Tensor]] = [[] for _ in layers]
        pooled = None
        for scale in config.ps3_scales:
            pictures = [self.normalise(view.resize((scale, scale)), view.picture) for view in views]
            tiles = torch.cat([_cut_tiles(picture, side, patch) for picture in pictures])
            features, vector = self.run_squares(tiles, layers, pool=pool and scale == config.ps3_scales[0])
            pooled = vector if pooled is None else pooled
            for entry, value in zip(maps, features, strict=True):
                entry.append(_resize_map(_join_tiles(value, len(views), side), config.feature_grid))
        return tuple(torch.cat(entry, dim=1).flatten(2).transpose(1, 2) for entry in maps), pooled


def _cut_tiles(pixels: Tensor, side: int, patch: int) -> Tensor:
    """``(T, side, side, 3, P, P)``: tiles of ``side`` x ``side`` patches, row by row."""
    cells = cut(pixels, patch)
    rows, columns = cells.shape[0] // side, cells.shape[1] // side
    cells = cells.unflatten(1, (columns, side)).unflatten(0, (rows, side))
    return cells.transpose(1, 2).flatten(0, 1)


def _join_tiles(features_TNC: Tensor, pictures: int, side: int) -> Tensor:
    """``(B, C, times * side, times * side)`` of the ``times * times`` tiles of every picture."""
    times = round((len(features_TNC) // pictures) ** 0.5)
    x = features_TNC.view(pictures, times, times, side, side, -1)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _resize_map(x_BCHW: Tensor, grid: int) -> Tensor:
    """``x_BCHW`` with ``grid`` rows and columns, averaged over areas in float32."""
    if x_BCHW.shape[-1] == grid:
        return x_BCHW
    return F.interpolate(x_BCHW.float(), size=(grid, grid), mode="area").to(x_BCHW.dtype)


def _take(flat: Tensor, place_LK: Tensor) -> Tensor:
    """``(L, K, C)``: rows of ``flat``; zeros at -1."""
    padded = torch.cat([flat, flat.new_zeros(1, flat.shape[-1])])
    return padded[place_LK.where(place_LK >= 0, len(flat))]
