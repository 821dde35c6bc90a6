import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from vila_hd.ps3 import layers
from vila_hd.ps3.layers import Mlp
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.testing import tiny_vision_config


@pytest.mark.parametrize("rows", [0, 1, 7, 24])
def test_an_mlp_in_parts_gives_what_it_gives_at_once(monkeypatch, rows):
    torch.manual_seed(0)
    mlp, x = Mlp(8, 32), torch.randn(3, rows, 8)
    sizes = []
    mlp.fc1.register_forward_hook(lambda module, args, out: sizes.append(out.numel()))
    whole = mlp(x)
    monkeypatch.setattr(layers, "_CPU_HIDDEN", 20 * 32)
    sizes.clear()
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), whole)
    assert max(sizes) <= 20 * 32


@torch.no_grad()
def test_a_block_starts_when_what_the_last_one_projected_is_gone():
    tower = PS3VisionModel(tiny_vision_config()).eval()
    alive, found = [], []

    def note_start(module, args):
        found.append(sum(not entry.expired() for entry in alive))

    def note_projection(module, args, out):
        alive.append(StorageWeakRef(out.untyped_storage()))

    for block in tower.vision_model.trunk.blocks:
        block.norm1.register_forward_pre_hook(note_start)
        block.attn.qkv.register_forward_hook(note_projection)
    tower(torch.rand(1, 3, 64, 64))
    assert len(found) > 1
    assert not any(found)
