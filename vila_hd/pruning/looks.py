"""ToMe and VisionZip for all looks of a batch, between projector and language model.

Shape suffixes used in this file:
    B = rows of the batch, T = columns of ``input_ids``, L = looks, P = pictures, N = low-resolution tokens of
    a look, M = high-resolution tokens of all looks together, D = language-model width, X = any width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import VilaHDError
from ..fusion import Runs
from ..options import Pruning
from ..projector import cells_of, fill_empty_looks
from ..ps3.outputs import HighRes, LowRes
from ..ps3.received import Received, received_first_view, received_high_res
from ..ps3.selection import PatchSelection
from .reducing import Reduced, tome, visionzip

if TYPE_CHECKING:
    from ..modeling_vila_hd import VilaHDModel


class Seen(NamedTuple):
    """What the tower and the projector made of the pictures of one batch."""

    low_res: LowRes

    low: Tensor
    """``(P, N, D)``"""

    high_res: HighRes | None

    selection: PatchSelection | None

    high: Tensor
    """``(M, D)``, look by look."""

    counts: tuple[int, ...]
    """High-resolution tokens per look."""

    look_index: Tensor | None


@dataclass(frozen=True)
class PrunedTokens:
    """The visual tokens that are left."""

    low: Tensor
    """``(L, N, D)``; those that were dropped are still in their places."""

    low_kept: Tensor
    """``(L, N)`` bool: which of them the language model gets."""

    high: Tensor
    """``(M, D)``, look by look."""

    counts: tuple[int, ...]
    """High-resolution tokens per look."""

    def mask(self, mask_BT: Tensor, runs: Runs) -> Tensor:
        """``mask_BT`` without the placeholders of dropped tokens."""
        column_LN = runs.start[:, None] + torch.arange(self.low.shape[1], device=runs.start.device)
        where = (runs.row[:, None].expand_as(column_LN), column_LN)
        return mask_BT.index_put(where, self.low_kept.to(mask_BT.device))


def layers_of(model: "VilaHDModel", pruning: Pruning | None) -> tuple[int, ...]:
    """Blocks of the tower whose outputs are needed: the one that is projected, then what pruning asks for.

    Raises:
        VilaHDError: there is no block before the one that is projected.
    """
    layer = model.config.select_layer
    if pruning is None or pruning.method != "visionzip":
        return (layer,)
    if layer % len(model.vision_tower.vision_model.trunk.blocks) == 0:
        raise VilaHDError(
            f"pruning {pruning}: there is no block before select_layer={layer}; use tome or fastv"
        )
    return layer, layer - 1


def prune_looks(model: "VilaHDModel", pruning: Pruning, seen: Seen) -> PrunedTokens:
    """What ToMe or VisionZip leaves of every look's tokens."""
    low_LND = seen.low if seen.look_index is None else seen.low[seen.look_index.to(seen.low.device)]
    measures = _measure(model, seen) if pruning.method == "visionzip" else None
    kept_LN = torch.zeros(low_LND.shape[:2], dtype=torch.bool, device=low_LND.device)
    lows, highs = [], []
    for look, (low_ND, high_MD) in enumerate(zip(low_LND, seen.high.split(seen.counts), strict=True)):
        tokens = torch.cat([low_ND, high_MD.to(low_ND.dtype)])
        kept = pruning.num_kept(len(tokens))
        found: Reduced
        found = tome(tokens, kept) if measures is None else visionzip(tokens, *measures[look], kept)
        inside = found.index < len(low_ND)
        lows.append(low_ND.index_copy(0, found.index[inside], found.tokens[inside]))
        highs.append(found.tokens[~inside])
        kept_LN[look, found.index[inside]] = True
    return PrunedTokens(
        low=torch.stack(lows) if lows else low_LND,
        low_kept=kept_LN,
        high=torch.cat(highs) if highs else seen.high,
        counts=tuple(len(entry) for entry in highs),
    )


def _measure(model: "VilaHDModel", seen: Seen) -> list[Received]:
    """Per look, what its tokens receive and their keys, in their order: means over their patches."""
    config = model.config
    blocks = model.vision_tower.vision_model.trunk.blocks
    number = config.select_layer % len(blocks)
    block, index = blocks[number], seen.look_index
    low = received_first_view(block, seen.low_res.features[1], config.vision_config)
    low_LND = Received(*(_pool_low_res(part, config.low_res_grid, config.downsample) for part in low))
    if index is not None:
        low_LND = Received(*(part[index.to(part.device)] for part in low_LND))
    if seen.high_res is None or seen.selection is None:
        return [Received(*parts) for parts in zip(*low_LND, strict=True)]
    found = received_high_res(block, seen.high_res.features[1], seen.low_res, number, seen.selection, index)
    cells = cells_of(seen.selection, config)
    highs = []
    for part in (found.attention[..., None], found.keys):
        values_MRX = part[cells.look[:, None], cells.patches.clamp(min=0)]
        exists_MR1 = (cells.patches >= 0)[..., None]
        values_MX = (values_MRX * exists_MR1).sum(1) / exists_MR1.sum(1)
        filler_LX = part.new_zeros(len(part), part.shape[-1])  # the stand-in of a look without tokens
        highs.append(fill_empty_looks(values_MX, cells, seen.counts, filler_LX).split(seen.counts))
    return [
        Received(torch.cat([a, b[:, 0]]), torch.cat([c, d]))
        for a, b, c, d in zip(low_LND.attention, highs[0], low_LND.keys, highs[1], strict=True)
    ]


def _pool_low_res(values: Tensor, grid: int, side: int) -> Tensor:
    """Means over the squares of patches that make a token: ``(P, tokens[, X])`` of ``(P, g * g[, X])``."""
    maps_PXHW = values.view(len(values), grid, grid, -1).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps_PXHW, side, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2).reshape(len(values), -1, *values.shape[2:])
