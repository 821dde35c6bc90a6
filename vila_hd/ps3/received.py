"""How much attention every patch receives in a block of the tower: computed from the block's input, after the
passes.

Shape suffixes and letters used in this file:
    B = sequences, N = tokens of a sequence, h = heads, d = width of a head, D = width, L = looks, K = chosen
    patches of a look, M = chosen patches of all looks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_trunk import TrunkConfig
from .layers import Block
from .outputs import LowRes
from .passes import pass_batches, to_looks
from .selection import PatchSelection

_CHUNK = 1 << 24
"""Attention weights that are in memory at a time (64 MB)."""


class Received(NamedTuple):
    """What one block tells about patches."""

    attention: Tensor
    """``(B, N)`` float32: mean over heads and queries, times the number of keys: 1 where it is even."""

    keys: Tensor
    """``(B, N, d)`` float32: mean over heads."""


@torch.no_grad()
def received(
    block: Block, x_BND: Tensor, *, far: Tensor | None = None, mask_BN: Tensor | None = None
) -> Received:
    """What the tokens of each sequence receive from one another.

    Args:
        block: whose attention it is.
        x_BND: what goes into the block.
        far: keys ``(B, h, n, d)`` of other tokens, which the queries read as well.
        mask_BN: False at padding; None: there is none.
    """
    query, own_key, _ = block.attn.project(block.norm1(x_BND))
    key = own_key if far is None else torch.cat([far, own_key], dim=2)
    first = key.shape[2] - own_key.shape[2]
    scale = query.shape[-1] ** -0.5
    step = max(1, _CHUNK // (query.shape[1] * key.shape[2]))
    attention = torch.zeros(x_BND.shape[:2], device=x_BND.device)
    for b in range(len(x_BND)):
        valid = slice(None) if mask_BN is None else mask_BN[b]
        keys = torch.cat([key[b, :, :first], own_key[b][:, valid]], dim=1).float()
        queries = query[b][:, valid].float()
        total = torch.zeros(queries.shape[1], device=x_BND.device)
        for some in queries.split(step, dim=1):
            weights = (some @ keys.transpose(1, 2) * scale).softmax(-1)
            total += weights[..., first:].sum((0, 1))
        attention[b, valid] = total * keys.shape[1] / (queries.shape[0] * max(1, queries.shape[1]))
    return Received(attention, own_key.float().mean(1))


def received_first_view(block: Block, x_PNX: Tensor, config: TrunkConfig) -> Received:
    """What the patches of the first view of every picture receive; see ``received``.

    Where features of several scales stand in the channels, it is what those of the scale receive whose grid
    the map has, from the patches of their own tile: only they are there as the block read them.
    """
    side, times = config.low_res_grid, config.feature_grid // config.low_res_grid
    channels = slice(-config.hidden_size, None) if times > 1 else slice(config.hidden_size)
    shape = (len(x_PNX), times, side, times, side)
    tiles = x_PNX[..., channels].unflatten(1, shape[1:]).transpose(2, 3)
    found = received(block, tiles.reshape(-1, side * side, config.hidden_size))
    maps = (part.view(len(x_PNX), times, times, side, side, -1).transpose(2, 3) for part in found)
    attention, keys = (part.reshape(*x_PNX.shape[:2], -1) for part in maps)
    return Received(attention[..., 0], keys)


def received_tiles(block: Block, x_LKD: Tensor, selection: PatchSelection) -> Received:
    """What the patches of every look receive from those of their own tile; see ``received``."""
    assert selection.tile is not None
    within_LK, _ = selection.by_tile()
    attention = torch.zeros(x_LKD.shape[:2], device=x_LKD.device)
    keys: list[Tensor] = []
    for look, within_K in enumerate(within_LK):
        seen = within_K >= 0
        order_M = within_K[seen].argsort()
        tiles = x_LKD[look, seen][order_M].view(-1, selection.tile**2, x_LKD.shape[-1])
        found = received(block, tiles)
        back_M = order_M.argsort()
        attention[look, seen] = found.attention.flatten()[back_M]
        keys.append(found.keys.flatten(0, 1)[back_M])
    return Received(attention, to_looks(torch.cat(keys), selection.mask))


@torch.no_grad()
def received_high_res(
    block: Block,
    x_LKD: Tensor,
    low: LowRes,
    number: int,
    selection: PatchSelection,
    look_index: Tensor | None,
) -> Received:
    """What the chosen patches of every look receive from the patches of their own pass, or of their own tile
    where there are tiles.

    Args:
        block: whose attention it is.
        x_LKD: what goes into the block, in the order of the selection.
        low: the low-resolution pass with its keys and values.
        number: of the block.
        selection: the chosen patches.
        look_index: ``(L,)`` the picture of every look; None: look i shows picture i.
    """
    if selection.tile is not None:
        return received_tiles(block, x_LKD, selection)
    picture = torch.arange(len(x_LKD), device=x_LKD.device) if look_index is None else look_index
    flat_MD = x_LKD[selection.mask]
    attention = torch.zeros(len(flat_MD), device=x_LKD.device)
    keys: Tensor | None = None
    for rows, owner in pass_batches(selection, picture):
        mask = rows >= 0
        x_BND, far = flat_MD[rows.clamp(min=0)], low.cache[number][0][owner]
        found = received(block, x_BND, far=far, mask_BN=None if bool(mask.all()) else mask)
        attention[rows[mask]] = found.attention[mask]
        keys = found.keys.new_zeros(len(flat_MD), found.keys.shape[-1]) if keys is None else keys
        keys[rows[mask]] = found.keys[mask]
    if keys is None:
        keys = attention.new_zeros(0, low.cache[number][0].shape[-1])
    return Received(to_looks(attention[:, None], selection.mask)[..., 0], to_looks(keys, selection.mask))
