"""Attention that patches receive, against the block's own softmax."""

import numpy as np
import torch
from torch import Tensor

from vila_hd.options import HighResOptions
from vila_hd.ps3.encoder import PS3VisionEncoder
from vila_hd.ps3.layers import Block
from vila_hd.ps3.received import received, received_high_res
from vila_hd.testing import tiny_model, tiny_picture


def weights_of(block: Block, x: Tensor, far: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention ``(heads, queries, keys)`` and own keys ``(heads, queries, d)`` of one sequence."""
    rows, width = x.shape
    heads = block.attn.heads
    parts = block.attn.qkv(block.norm1(x)).split(width, dim=-1)
    query, key = (part.view(rows, heads, -1).transpose(0, 1) for part in parts[:2])
    keys = key if far is None else torch.cat([far, key], dim=1)
    size = width // heads
    return torch.stack([(query[h] @ keys[h].T / size**0.5).softmax(-1) for h in range(heads)]), key


def block_of(seed: int = 0) -> Block:
    torch.manual_seed(seed)
    return Block(12, 3, 24, eps=1e-6, drop_path=0.0)


@torch.no_grad()
def test_received_is_the_mean_over_heads_and_queries() -> None:
    block, x = block_of(), torch.randn(2, 5, 12)
    found = received(block, x)
    for b in range(2):
        weights, keys = weights_of(block, x[b])
        torch.testing.assert_close(found.attention[b], weights.mean((0, 1)) * 5)
        torch.testing.assert_close(found.keys[b], keys.mean(0))
    torch.testing.assert_close(found.attention.mean(1), torch.ones(2))


@torch.no_grad()
def test_other_keys_take_their_part_and_padding_takes_none() -> None:
    block, x, far = block_of(), torch.randn(2, 5, 12), torch.randn(2, 3, 4, 4)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    found = received(block, x, far=far, mask_BN=mask)
    for b, length in ((0, 5), (1, 3)):
        weights, _ = weights_of(block, x[b, :length], far[b])
        torch.testing.assert_close(found.attention[b, :length], weights[..., 4:].mean((0, 1)) * (4 + length))
    assert not found.attention[1, 3:].any()


@torch.no_grad()
def test_patches_of_a_pass_receive_from_that_pass_alone() -> None:
    encoder: PS3VisionEncoder = tiny_model().model.vision_tower.vision_model
    pixels = [torch.tensor(np.array(tiny_picture(128, 96, seed=i))).permute(2, 0, 1) for i in (0, 1)]
    low = encoder.encode_low_res(pixels, layers=(1, 0))
    index = torch.tensor([1, 0, 1])
    scores = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    plans = [((6, 10), (3, 5)), ((2, 4),), ((0, 7), (9, 0))]
    selection = encoder.select(low, scores, options=HighResOptions(), look_index=index, plans=plans)
    high = encoder.encode_high_res(low, selection, layers=(1, 0), look_index=index)
    block = encoder.trunk.blocks[1]
    found = received_high_res(block, high.features[1], low, 1, selection, index)
    for look in range(3):
        for step in (1, 2):
            inside = (selection.passes[look] == step) & selection.mask[look]
            if not inside.any():
                continue
            far = low.cache[1][0][index[look]]
            weights, keys = weights_of(block, high.features[1][look][inside], far)
            expected = weights[..., far.shape[1] :].mean((0, 1)) * weights.shape[-1]
            torch.testing.assert_close(found.attention[look][inside], expected)
            torch.testing.assert_close(found.keys[look][inside], keys.mean(0))
    assert not found.attention[~selection.mask].any()
