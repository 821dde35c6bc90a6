"""Low-resolution passes of single pictures make that of a batch."""

import torch

from vila_hd.ps3.outputs import LowRes
from vila_hd.testing import tiny_model


@torch.no_grad()
def test_parts_join_to_the_whole():
    tower = tiny_model().model.vision_tower
    pictures = [torch.randint(0, 256, (3, 60 + 9 * i, 90), dtype=torch.uint8) for i in range(3)]
    whole = tower.encode_low_res(pictures, pool=True)
    scores = tower.score(whole)
    parts = whole.split()
    assert [part.pictures[0] is picture for part, picture in zip(parts, pictures, strict=True)] == [True] * 3
    joined = LowRes.join([parts[2], parts[0]])
    assert torch.equal(joined.features[0], whole.features[0][[2, 0]])
    assert torch.equal(joined.pooled, whole.pooled[[2, 0]])
    assert joined.grids == (whole.grids[2], whole.grids[0])
    assert all(
        torch.equal(ours[0], theirs[0][[2, 0]])
        for ours, theirs in zip(joined.cache, whole.cache, strict=True)
    )
    assert torch.equal(tower.score(joined), scores[[2, 0]])
    assert parts[0].nbytes < whole.nbytes == sum(part.nbytes for part in parts)


@torch.no_grad()
def test_what_only_some_parts_remember_is_computed_again():
    tower = tiny_model().model.vision_tower
    one, two = (
        tower.encode_low_res(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)) for _ in range(2)
    )
    alone = tower.score(one)
    assert torch.equal(tower.score(LowRes.join([one, two]))[:1], alone)


@torch.no_grad()
def test_parts_share_no_memory():
    tower = tiny_model().model.vision_tower
    whole = tower.encode_low_res(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    for part in whole.split():
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in (part.taps, *part.features))
