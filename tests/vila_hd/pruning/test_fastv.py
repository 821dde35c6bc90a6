"""FastV against the language model's own attention weights and masks."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vila_hd.errors import VilaHDError
from vila_hd.fusion import Layout, Runs, lay_out
from vila_hd.options import Pruning
from vila_hd.pruning.fastv import FastVCache
from vila_hd.testing import tiny_config, tiny_model

LOW, HIGH, BLOCKS = 4, (9, 5), 4
"""Low-resolution tokens of each look; high-resolution tokens of the look of each row; blocks."""


def language_model(kind: str = "qwen2", **text: int) -> PreTrainedModel:
    config = tiny_config(kind, text={"num_hidden_layers": BLOCKS, **text})
    return tiny_model(config).model.language_model


def prompt(lengths: tuple[int, ...] = (12, 9)) -> tuple[Tensor, Layout, Runs]:
    """Rows with one look each, two words before it; the shorter row is padded on the left."""
    longest = max(lengths)
    mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths])
    start = torch.tensor([longest - length + 2 for length in lengths])
    runs = Runs(torch.arange(len(lengths)), start, start + LOW - 1)
    layout = lay_out(mask, runs, HIGH[: len(lengths)], padding_side="left")
    embeds = torch.randn(*layout.mask.shape, 48, generator=torch.Generator().manual_seed(1))
    return embeds * layout.mask[..., None], layout, runs


def by_masks(
    model: PreTrainedModel, embeds_UD: Tensor, columns: slice, layer: int, kept: int
) -> tuple[Tensor, Tensor]:
    """One row without padding: columns of the visual tokens that stay, and the last state of its last token.

    Nothing is removed: the later blocks are kept from reading dropped columns by their masks.
    """
    model.set_attn_implementation("eager")
    seen = model(inputs_embeds=embeds_UD[None], output_attentions=True)
    ranks = seen.attentions[layer - 1][0].mean(0)[-1][columns]
    stay = ranks.topk(kept).indices + columns.start
    length = len(embeds_UD)
    causal = torch.full((length, length), float("-inf")).triu(1)
    dropped = torch.ones(length, dtype=torch.bool)
    dropped[columns], dropped[: columns.start], dropped[columns.stop :] = True, False, False
    dropped[stay] = False
    without = causal.masked_fill(dropped, float("-inf")).fill_diagonal_(0.0)
    positions = torch.arange(length)[None]
    states, rotary = embeds_UD[None], model.rotary_emb(embeds_UD[None], positions)
    for number, block in enumerate(model.layers):
        mask = causal if number < layer else without
        states = block(states, attention_mask=mask[None, None], position_embeddings=rotary)
    model.set_attn_implementation("sdpa")
    return stay.sort().values, model.norm(states)[0, -1]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize(("layer", "keep"), [(1, 0.5), (2, 0.25), (3, 0.5), (2, 1.0)])
@torch.no_grad()
def test_the_answer_is_that_of_masked_blocks(kind: str, layer: int, keep: float) -> None:
    model = language_model(kind, **({"sliding_window": None} if kind == "mistral" else {}))
    embeds, layout, runs = prompt()
    pruning = Pruning(method="fastv", keep=keep, layer=layer)
    cache = FastVCache(model, pruning)
    lows, highs = cache.read_prompt(embeds, layout, runs, HIGH)
    last = cache.go_on(embeds[:, -1:], layout.mask.long(), layout.positions[:, -1:])
    for row in range(2):
        kept = pruning.num_kept(LOW + HIGH[row])
        tokens = embeds[row][layout.mask[row]]
        stay, expected = by_masks(model, tokens, slice(2, 2 + LOW + HIGH[row]), layer, kept)
        assert lows[row] == int((stay < 2 + LOW).sum())
        assert lows[row] + highs[row] == kept
        torch.testing.assert_close(last[row, 0], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_later_blocks_hold_fewer_columns() -> None:
    model, (embeds, layout, runs) = language_model(), prompt()
    cache = FastVCache(model, Pruning(method="fastv", keep=0.25, layer=3))
    cache.read_prompt(embeds, layout, runs, HIGH)
    full = layout.mask.shape[1] - 1
    dropped = [LOW + high - Pruning(method="fastv", keep=0.25).num_kept(LOW + high) for high in HIGH]
    fewer = int((layout.mask.sum(1) - 1 - torch.tensor(dropped)).max())
    assert [cache.get_seq_length(i) for i in range(BLOCKS)] == [full] * 3 + [fewer]


@torch.no_grad()
def test_tokens_one_by_one_equal_tokens_together() -> None:
    model, (embeds, layout, runs) = language_model(), prompt()
    pruning = Pruning(method="fastv", keep=0.5)
    new = torch.cat([embeds[:, -1:], torch.randn(2, 3, 48)], dim=1)
    states = []
    for sizes in ((1, 1, 1, 1), (4,), (1, 3)):
        cache = FastVCache(model, pruning)
        cache.read_prompt(embeds, layout, runs, HIGH)
        parts, mask = [], layout.mask[:, :-1].long()
        for part in new.split(sizes, dim=1):
            mask = torch.cat([mask, mask.new_ones(2, part.shape[1])], dim=1)
            parts.append(cache.go_on(part, mask, None))
        states.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(states[0], states[1])
    torch.testing.assert_close(states[0], states[2])


@torch.no_grad()
def test_rows_can_be_repeated_and_reordered_as_beams_do() -> None:
    model, (embeds, layout, runs) = language_model(), prompt()
    pruning = Pruning(method="fastv", keep=0.5)
    cache = FastVCache(model, pruning)
    cache.read_prompt(embeds, layout, runs, HIGH)
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([1, 0, 3, 2]))
    cache.batch_select_indices(torch.tensor([3, 0]))
    mask = layout.mask.long()[[1, 0]]
    last = cache.go_on(embeds[[1, 0], -1:], mask, layout.positions[[1, 0], -1:])
    plain = FastVCache(model, pruning)
    plain.read_prompt(embeds, layout, runs, HIGH)
    expected = plain.go_on(embeds[:, -1:], layout.mask.long(), layout.positions[:, -1:])
    torch.testing.assert_close(last, expected[[1, 0]])


def test_language_models_that_it_does_not_fit_are_refused() -> None:
    pruning = Pruning(method="fastv", keep=0.5, layer=BLOCKS)
    with pytest.raises(
        VilaHDError, match=r"4 blocks, so tokens can be dropped after 1 to 3: use fastv:0\.5:1"
    ):
        FastVCache(language_model(), pruning)
    windows = language_model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(VilaHDError, match="sliding windows, only for llama, mistral, qwen2, qwen3"):
        FastVCache(windows, Pruning(method="fastv", keep=0.5))
