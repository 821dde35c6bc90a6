import pytest
import torch
from torch.nn import functional as F

from vila_hd.ps3 import cpu_attention
from vila_hd.ps3.cpu_attention import attend_bf16, is_faster


def draw(batch=2, heads=3, queries=50, keys=70, width=24, *, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, queries, heads, width, generator=generator).transpose(1, 2) * size
    key, value = torch.randn(2, batch, keys, heads, width, generator=generator).transpose(2, 3) * size
    return query.bfloat16(), key.bfloat16(), value.bfloat16()


def distance(out, query, key, value):
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    return float((out.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("size", [1.0, 3.0, 12.0, 40.0])
def test_equals_exact_attention_up_to_bf16_rounding(size):
    # The last two sizes have logits of hundreds, which bf16 cannot hold.
    inputs = draw(size=size)
    assert distance(attend_bf16(*inputs), *inputs) < 0.03


def test_a_shift_common_to_all_keys_changes_nothing():
    query, key, value = draw()
    shifted = (key.float() + 50.0).bfloat16()
    exact = F.scaled_dot_product_attention(query.double(), shifted.double(), value.double())
    plain = F.scaled_dot_product_attention(query, shifted, value)
    ours = attend_bf16(query, shifted, value)
    assert float((ours - exact).abs().max()) <= 2 * float((plain - exact).abs().max()) + 0.02


@pytest.mark.parametrize("chunk", [1, 70, 70 * 50, 70 * 120])
def test_chunks_do_not_change_the_result(monkeypatch, chunk):
    inputs = draw()
    whole = attend_bf16(*inputs)
    monkeypatch.setattr(cpu_attention, "_CHUNK", chunk)
    torch.testing.assert_close(attend_bf16(*inputs), whole, rtol=0.02, atol=0.01)


def test_keys_in_front_are_read_as_if_joined():
    query, key, value = draw()
    before = key[:, :, :30].contiguous(), value[:, :, :30].contiguous()
    parted = attend_bf16(query, key[:, :, 30:], value[:, :, 30:], before)
    assert torch.equal(parted, attend_bf16(query, key, value))


def test_the_result_needs_no_copy_to_become_a_sequence():
    out = attend_bf16(*draw(batch=1))
    assert out.transpose(1, 2).is_contiguous()


def test_not_a_number_stays_visible():
    query, key, value = draw(batch=1, heads=1)
    query[0, 0, 3, 0] = float("nan")
    out = attend_bf16(query, key, value)
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, 4:].isfinite().all()


def test_used_for_large_bf16_without_gradients_only(monkeypatch):
    query, key, _ = draw()
    assert not is_faster(query, key)
    monkeypatch.setattr(cpu_attention, "_LEAST", 1)
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert is_faster(query, key) == supported
    assert not is_faster(query.float(), key.float())
    monkeypatch.setattr(cpu_attention, "_LEAST", query.shape[1] * 50 * 140)
    assert is_faster(query, key, key) == supported
    assert not is_faster(query, key)
    monkeypatch.setattr(cpu_attention, "_LEAST", 1)
    query.requires_grad_()
    assert not is_faster(query, key)
    with torch.no_grad():
        assert is_faster(query, key) == supported
