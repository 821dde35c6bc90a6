"""The passes of the PS3 tower: low resolution, the choice of patches, high resolution over the chosen ones.

Shape suffixes and letters used in this file:
    B = pictures, L = looks (uses of a picture), N = g * g low-resolution tokens, K = chosen patches of a
    look, D = width, M = chosen patches of all looks, P = patch side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import VilaHDError
from ..options import HighResOptions
from .configuration_ps3 import PS3VisionConfig
from .embeddings import positions_at
from .layers import DetailBranch, Mlp
from .outputs import HighRes, LowRes, PS3VisionOutput
from .passes import pass_batches, split_by, to_looks
from .plans import PassPlan, plan_passes
from .regions import Regions
from .resampling import Views, grid_of, scale_size
from .selection import (
    Grids,
    PatchSelection,
    choose_patches,
    free_patches,
    group_looks,
    random_scores,
    score_maps,
)
from .vision_encoder import Pixels, Prompt, VisionEncoder, check_looks, check_pictures, layer_number

_LOGIT_SCALE = 5.0
_LOGIT_LIMIT = 10.0


class PS3VisionEncoder(VisionEncoder):
    """The tower without the Hugging Face shell: all parameters, all passes."""

    config: PS3VisionConfig

    def __init__(self, config: PS3VisionConfig) -> None:
        super().__init__(config)
        width, scales, taps = config.hidden_size, len(config.high_scales), len(config.select_based_on_layer)
        self.selection_feature_proj = Mlp(taps * width, taps * width, scales * width, norm=True)
        self.prior_prompt = nn.Parameter(torch.zeros(width))
        self.pos_emb_residual: nn.ParameterList | None = None
        if config.separate_pos_emb:
            sides = [config.residual_grid_size or scale // config.patch_size for scale in config.high_scales]
            self.pos_emb_residual = nn.ParameterList(
                nn.Parameter(torch.zeros(1, side * side, width)) for side in sides
            )
        self.highres_selection_feature_module: DetailBranch | None = None
        self.prompt_proj_for_highres: nn.Linear | None = None
        if config.highres_selection_feature:
            out = config.highres_selection_module_out_dim
            self.highres_selection_feature_module = DetailBranch(
                config.highres_selection_module_hidden_dim,
                out,
                config.highres_selection_module_depth,
                config.highres_selection_module_kernel_size,
            )
            self.prompt_proj_for_highres = nn.Linear(width, out * scales)

    # ---------------------------------------------------------------- low resolution

    def encode_low_res(
        self,
        pixel_values: Pixels,
        *,
        layers: Sequence[int] = (-1,),
        keep_cache: bool = True,
        taps: bool = True,
        pool: bool = False,
    ) -> LowRes:
        """Encode the square low-resolution view of every picture; see ``VisionTowerModel.encode_low_res``."""
        pictures = check_pictures(pixel_values)
        config, depth = self.config, len(self.trunk.blocks)
        wanted = [layer_number(layer, depth) for layer in layers]
        tapped = [layer_number(layer, depth) for layer in config.select_based_on_layer] if taps else []
        side, grid = config.ps3_scales[0], config.low_res_grid
        views = [Views(picture, self.method) for picture in pictures]
        cells = self.square_cells(views, side, config.patch_size)
        place = torch.arange(grid * grid, device=cells.device)
        x = self.trunk.tokens(cells.flatten(1, 2), grid, place // grid, place % grid)
        blocks = depth if pool or keep_cache else max([*wanted, *tapped], default=-1) + 1
        last, kept, cache = self.trunk.run(x, blocks=blocks, keep={*wanted, *tapped}, keep_cache=keep_cache)
        low = LowRes(
            pictures=pictures,
            grids=tuple(self._grids(picture) for picture in pictures),
            features=tuple(kept[i] for i in wanted),
            cache=cache,
            taps=torch.cat([kept[i] for i in tapped], dim=-1) if tapped else None,
            pooled=self.trunk.pool(last, None) if pool else None,
            layers=tuple(layers),
        )
        low.memo["views"] = views
        return low

    def _grids(self, picture: Tensor) -> Grids:
        patch = self.config.patch_size
        return tuple(grid_of(self._scale_size(picture, scale), patch) for scale in self.config.high_scales)

    def _scale_size(self, picture: Tensor, scale: int) -> tuple[int, int]:
        size = (picture.shape[1], picture.shape[2])
        return scale_size(size, scale, low_scale=self.config.ps3_scales[0], patch=self.config.patch_size)

    # ---------------------------------------------------------------- choice

    def score(
        self,
        low: LowRes,
        prompt: Tensor | None = None,
        *,
        look_index: Tensor | None = None,
        random: bool = False,
    ) -> Tensor:
        """Score every low-resolution cell; see ``VisionTowerModel.score``."""
        if random:
            drawn = random_scores(low.pictures, self.config.low_res_grid).to(self.trunk.pos_embed.device)
            return drawn if look_index is None else drawn[look_index.to(drawn.device)]
        features, details = self._selector_features(low)
        if prompt is None:
            query = self.prior_prompt[None]
            looks = len(low.pictures) if look_index is None else len(look_index)
        else:
            query, looks = prompt.to(features), len(prompt)
        index = check_looks(look_index, looks, len(low.pictures), features.device)
        grid = self.config.low_res_grid
        cosine = _similarity(features, query, index).view(-1, 1, grid, grid)
        if details is not None:
            assert self.prompt_proj_for_highres is not None
            projection, out = self.prompt_proj_for_highres, self.config.highres_selection_module_out_dim
            # Only the first scale's output group is ever used: its map decides for all scales.
            detail_query = F.linear(query, projection.weight[:out], projection.bias[:out])
            side = self.config.selection_image_size // self.config.highres_selection_module_kernel_size
            detail = _similarity(details, detail_query, index).view(-1, 1, side, side)
            cosine = (cosine + F.adaptive_max_pool2d(detail, (grid, grid))) / 2
        logit = (cosine[:, 0] * _LOGIT_SCALE).clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        return torch.stack([torch.zeros_like(logit), logit], dim=-1).softmax(dim=-1)[..., 1]

    def _selector_features(self, low: LowRes) -> tuple[Tensor, Tensor | None]:
        """Return unit vectors of every cell ``(B, N, D)`` and of the convolutional branch ``(B, n * n,
        out)``."""
        key = f"selector, gradients {torch.is_grad_enabled()}"
        if key in low.memo:
            features, details = low.memo[key]
            return features, details
        if low.taps is None:
            raise VilaHDError(
                "the low-resolution pass has no selector features: call encode_low_res(taps=True)"
            )
        width, projection = self.config.hidden_size, self.selection_feature_proj
        # Only the first of the published output groups is ever used, see above.
        hidden = projection.hidden(low.taps)
        features = F.linear(hidden, projection.fc2.weight[:width], projection.fc2.bias[:width])
        features = F.normalize(features, dim=-1)
        details = None
        if self.highres_selection_feature_module is not None:
            config = self.config
            kernel = config.highres_selection_module_kernel_size
            cells = self.square_cells(self.views_of(low), config.selection_image_size, kernel)
            details = F.normalize(self.highres_selection_feature_module(cells).flatten(1, 2), dim=-1)
        low.memo[key] = (features, details)
        return features, details

    @torch.no_grad()
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
        """Choose patches; see ``VisionTowerModel.select``."""
        grids = self._look_grids(low, look_index, len(scores))
        if regions is not None and len(regions) != len(scores):
            raise VilaHDError(f"{len(regions)} regions for {len(scores)} looks: give one entry per look")
        allowed = None
        if taken is not None or (options.only_regions and regions is not None):
            allowed = free_patches(grids, regions if options.only_regions else None, taken)
        if plans is None:
            sizes = None if allowed is None else [tuple(int(mask.sum()) for mask in look) for look in allowed]
            plans = self.plan(grids, options, sizes=sizes)
        return choose_patches(
            scores.detach(),
            grids,
            plans,
            regions=None if options.only_regions else regions,
            smooth=options.smooth,
            allowed=allowed,
        )

    def _look_grids(self, low: LowRes, look_index: Tensor | None, looks: int) -> list[Grids]:
        if look_index is None and looks == len(low.grids):
            return list(low.grids)
        index = check_looks(look_index, looks, len(low.grids), torch.device("cpu"))
        return list(low.grids) if index is None else [low.grids[i] for i in index.tolist()]

    def plan(
        self,
        grids: Sequence[Grids],
        options: HighResOptions,
        *,
        sizes: Sequence[tuple[int, ...]] | None = None,
    ) -> list[PassPlan]:
        """Return how many patches each pass takes from each scale, per look.

        Args:
            grids: one entry per look.
            options: budget, split and scales.
            sizes: per look, patches of each scale that may be taken; None: all.
        """
        config = self.config
        scales = config.high_scales
        if options.per_scale is not None and len(options.per_scale) != len(scales):
            raise VilaHDError(
                f"per_scale={options.per_scale}: use {len(scales)} numbers, one per scale of {scales}"
            )
        if options.max_scale is not None and options.max_scale not in scales:
            raise VilaHDError(f"max_scale={options.max_scale}: use one of {', '.join(map(str, scales))}")
        count = None if options.max_scale is None else scales.index(options.max_scale) + 1
        if sizes is None:
            sizes = [tuple(rows * columns for rows, columns in entry) for entry in grids]
        plans = {
            entry: plan_passes(
                entry,
                options.per_scale or config.patches_per_pass,
                budget=options.budget,
                num_scales=count,
                rounding=config.rounding,
            )
            for entry in set(sizes)
        }
        return [plans[entry] for entry in sizes]

    # ---------------------------------------------------------------- high resolution

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
        """Encode the chosen patches; see ``VisionTowerModel.encode_high_res``."""
        depth, looks = len(self.trunk.blocks), len(selection.index)
        pool = pool or pool_regions is not None
        wanted = [layer_number(layer, depth) for layer in layers]
        blocks = depth if pool else max(wanted, default=-1) + 1
        if len(low.cache) < blocks:
            raise VilaHDError(
                f"the low-resolution pass kept keys and values of {len(low.cache)} blocks, {blocks} are "
                "needed: call encode_low_res(keep_cache=True)"
            )
        device = self.prior_prompt.device
        index = check_looks(look_index, looks, len(low.pictures), device)
        picture = torch.arange(looks, device=device) if index is None else index
        tokens = self._chosen_tokens(low, selection, picture)
        needed = sorted({*wanted, depth - 1} if pool else set(wanted))
        flat = self._run_passes(tokens, selection, picture, low, blocks, needed)
        full = {i: to_looks(value, selection.mask) for i, value in flat.items()}
        pooled = None
        if pool:
            pooled = self.trunk.pool(full[depth - 1], self._pool_mask(selection, pool_regions))
        return HighRes(features=tuple(full[i] for i in wanted), pooled=pooled)

    def _chosen_tokens(self, low: LowRes, selection: PatchSelection, picture: Tensor) -> Tensor:
        """Return ``(M, D)``: tokens of all chosen patches, look by look in the order of the selection."""
        config, mask = self.config, selection.mask
        scale, row, column = (entry[mask] for entry in selection.places())
        owner = picture[:, None].expand_as(mask)[mask]
        count = len(config.high_scales)
        # All patches of one picture and scale are cut out together, whichever looks they belong to.
        spots = split_by(owner * count + scale, len(low.pictures) * count)
        patches = self.prior_prompt.new_empty(len(scale), 3, config.patch_size, config.patch_size)
        for b, view in enumerate(self.views_of(low)):
            device = view.picture.device
            for i, size in enumerate(config.high_scales):
                spot = spots[b * count + i]
                if len(spot):
                    places = row[spot].to(device), column[spot].to(device)
                    raw = view.patches(self._scale_size(view.picture, size), *places, config.patch_size)
                    patches[spot] = self.normalise(raw, view.picture)
        return self.trunk.patch_embed.proj(patches) + self._positions(low, scale, owner, row, column)

    def _positions(self, low: LowRes, scale: Tensor, owner: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return ``(M, D)``: position embeddings of chosen places, whose scale and picture are given
        ``(M,)``."""
        config, count = self.config, len(self.config.high_scales)
        sides = [[max(grid) for grid in grids] for grids in low.grids]
        kinds = sorted({(i, entry[i]) for entry in sides for i in range(count)})
        kind_of = torch.tensor([[kinds.index((i, entry[i])) for i in range(count)] for entry in sides])
        spots = split_by(kind_of.to(scale.device)[owner, scale], len(kinds))
        parts, nothing = [], self._take_part()
        for (i, side), spot in zip(kinds, spots, strict=True):
            row, column = rows[spot], columns[spot]
            part = positions_at(self.trunk.pos_embed, side, row, column, crop=config.radio)
            if self.pos_emb_residual is not None:
                # A table with one entry per patch is cropped, never stretched.
                crop = config.residual_grid_size is None
                part = part + positions_at(self.pos_emb_residual[i], side, row, column, crop=crop)
            parts.append(part)
        positions = torch.cat(parts)[torch.cat(spots).argsort()]
        return positions if nothing is None else positions + nothing

    def _take_part(self) -> Tensor | None:
        """Zero that hangs on every table of positions: on all ranks each must get a gradient, and be the last
        to get it in the same order, whatever scales and shapes their pictures have."""
        tables = [table for table in self.pos_emb_residual or () if table.requires_grad]
        if not tables or not torch.is_grad_enabled():
            return None
        return torch.stack([0 * table[0, 0, 0] for table in tables]).sum()

    def _run_passes(
        self,
        tokens: Tensor,
        selection: PatchSelection,
        picture: Tensor,
        low: LowRes,
        blocks: int,
        needed: Sequence[int],
    ) -> dict[int, Tensor]:
        """Return block outputs ``(M, D)`` in the order of ``tokens``; patches of different passes do not
        meet."""
        outputs: dict[int, list[Tensor]] = {i: [] for i in needed}
        places = []
        for rows, owner in pass_batches(selection, picture):
            mask = rows >= 0
            padded = not bool(mask.all())
            _, kept, _ = self.trunk.run(
                tokens[rows.clamp(min=0)],
                blocks=blocks,
                keep=needed,
                cache=low.cache[:blocks] if self.config.reads_low_res else None,
                index=owner,
                mask=mask if padded else None,
            )
            for i, value in kept.items():
                outputs[i].append(value[mask] if padded else value.flatten(0, 1))
            places.append(rows[mask])
        if not places:
            return {i: tokens for i in needed}
        order = torch.cat(places).argsort()
        return {i: torch.cat(values)[order] for i, values in outputs.items()}

    def _pool_mask(self, selection: PatchSelection, regions: Regions | None) -> Tensor | None:
        """Return ``(L, K)`` bool: tokens that are pooled; None: all."""
        mask = selection.mask
        if regions is None:
            return None if bool(mask.all()) else mask
        inside = torch.zeros_like(mask)
        for grids, looks in group_looks(selection.grids).items():
            part = regions.subset(looks).to(mask.device)
            # As in the reference, every scale is compared with the region itself, not through the first.
            touched = torch.cat([part.on_grid(*grid).flatten(1) for grid in grids], dim=1)
            inside[looks] = touched.gather(1, selection.index[looks].clamp(min=0))
        inside &= mask
        # A look whose region holds no chosen patch is pooled over all its patches, as in the reference.
        return torch.where(inside.any(dim=1, keepdim=True), inside, mask)

    # ---------------------------------------------------------------- everything

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
        """Run all passes; see ``VisionTowerModel.forward``."""
        options = options or HighResOptions()
        close = options.budget != 0
        low = self.encode_low_res(pixel_values, layers=layers, keep_cache=close, taps=close, pool=pool)
        if options.guided_by == "regions" and regions is None:
            raise VilaHDError("guided_by='regions' without regions: pass regions=Regions.from_boxes(...)")
        vector = prompt(low) if callable(prompt) else prompt
        looks = (
            len(look_index)
            if look_index is not None
            else len(low.pictures)
            if vector is None
            else len(vector)
        )
        index = check_looks(look_index, looks, len(low.pictures), self.prior_prompt.device)
        if not close:
            features = tuple(value if index is None else value[index] for value in low.features)
            pooled = low.pooled if low.pooled is None or index is None else low.pooled[index]
            return PS3VisionOutput(
                last_hidden_state=features[-1] if features else None,
                hidden_states=features or None,
                pooled_output=pooled,
                low=low,
            )
        random = options.guided_by == "random"
        guided = vector is not None and options.guided_by not in ("saliency", "random")
        prior = self.score(low, look_index=index) if saliency or not (guided or random) else None
        posterior = None if vector is None else self.score(low, vector, look_index=index)
        scores = posterior if guided else prior
        if random:
            scores = self.score(low, look_index=index, random=True)
        assert scores is not None
        selection = self.select(low, scores, options=options, regions=regions, look_index=index)
        high = self.encode_high_res(
            low, selection, layers=layers, look_index=index, pool=pool, pool_regions=pool_regions
        )
        states = tuple(
            torch.cat([near if index is None else near[index], far], dim=1)
            for near, far in zip(low.features, high.features, strict=True)
        )
        maps = None
        if options.return_maps:
            maps = score_maps(scores.detach(), selection.grids, regions=regions, smooth=options.smooth)
        return PS3VisionOutput(
            last_hidden_state=states[-1] if states else None,
            hidden_states=states or None,
            pooled_output=high.pooled,
            low=low,
            high=high,
            selection=selection,
            scores=scores,
            saliency_scores=prior,
            prompt_scores=posterior,
            score_maps=maps,
        )


def _similarity(features: Tensor, query: Tensor, index: Tensor | None) -> Tensor:
    """Return cosines ``(L, N)`` of unit features ``(B, N, D)`` with queries ``(L, D)`` (or one for all
    looks)."""
    query = F.normalize(query, dim=-1).to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):  # scores in 8 bits would be mostly ties
        if len(query) == 1:
            cosine = features @ query[0]
            return cosine if index is None else cosine[index]
        if index is not None:
            features = features[index]
        return torch.bmm(features, query[:, :, None])[:, :, 0]
