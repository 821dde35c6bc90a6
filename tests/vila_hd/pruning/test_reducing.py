"""ToMe and VisionZip on the tokens of one picture, against the same in loops."""

import pytest
import torch
from torch import Tensor

from vila_hd.errors import VilaHDError
from vila_hd.options import Pruning
from vila_hd.pruning.reducing import tome, visionzip


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def mean_of(tokens: Tensor, members: list[int]) -> Tensor:
    return torch.stack([tokens[i] for i in members]).mean(0)


def tome_in_loops(tokens: Tensor, kept: int) -> dict[int, list[int]]:
    """Place of each token that stays -> all tokens that it is the mean of."""
    groups = {i: [i] for i in range(len(tokens))}
    while len(groups) > kept:
        places = sorted(groups)
        some, others = places[::2], places[1::2]
        best = {}
        for a in some:
            alike = {b: cosine(mean_of(tokens, groups[a]), mean_of(tokens, groups[b])) for b in others}
            partner = max(alike, key=lambda b: alike[b])
            best[a] = (alike[partner], partner)
        merges = min(len(groups) - kept, len(groups) // 2)
        for a in sorted(some, key=lambda a: -best[a][0])[:merges]:
            groups[best[a][1]] += groups.pop(a)
    return groups


@pytest.mark.parametrize("kept", [20, 15, 11, 8, 5, 2, 1])
def test_tome_merges_what_loops_merge(kept: int) -> None:
    tokens = rand(21, 6)
    groups = tome_in_loops(tokens, kept)
    reduced = tome(tokens, kept)
    assert reduced.index.tolist() == sorted(groups)
    expected = torch.stack([mean_of(tokens, groups[i]) for i in sorted(groups)])
    torch.testing.assert_close(reduced.tokens, expected)


def test_tome_merges_twins_first() -> None:
    tokens = rand(6, 4)
    tokens[3] = tokens[0]
    reduced = tome(tokens, 5)
    assert reduced.index.tolist() == [1, 2, 3, 4, 5]
    torch.testing.assert_close(reduced.tokens[2], tokens[0])


def visionzip_in_loops(
    tokens: Tensor, received: Tensor, keys: Tensor, kept: int
) -> tuple[dict[int, list[int]], list[int]]:
    """Place -> members of the mean, and the contextual ones of them."""
    contextual = kept * 10 // 64
    ranked = sorted(range(len(tokens)), key=lambda i: -float(received[i]))
    dominant, rest = ranked[: kept - contextual], sorted(ranked[kept - contextual :])
    groups = {i: [i] for i in dominant}
    targets = [rest[i * (len(rest) // contextual)] for i in range(contextual)] if contextual else []
    groups |= {i: [i] for i in targets}
    for i in rest if targets else []:
        if i not in targets:
            groups[max(targets, key=lambda t: cosine(keys[i], keys[t]))].append(i)
    return groups, targets


@pytest.mark.parametrize(("kept", "contextual"), [(40, 6), (30, 4), (13, 2), (7, 1), (3, 0)])
def test_visionzip_keeps_and_merges_what_loops_do(kept: int, contextual: int) -> None:
    tokens, received, keys = rand(41, 6), rand(41, seed=1).exp(), rand(41, 3, seed=2)
    groups, targets = visionzip_in_loops(tokens, received, keys, kept)
    assert (len(groups), len(targets)) == (kept, contextual)
    reduced = visionzip(tokens, received, keys, kept)
    assert reduced.index.tolist() == sorted(groups)
    expected = torch.stack([mean_of(tokens, groups[i]) for i in sorted(groups)])
    torch.testing.assert_close(reduced.tokens, expected)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 65])
def test_all_tokens_stay_as_they_are(count: int) -> None:
    tokens = rand(count, 4).bfloat16()
    for reduced in (tome(tokens, count), visionzip(tokens, rand(count), rand(count, 3), count)):
        assert torch.equal(reduced.tokens, tokens)
        assert reduced.index.tolist() == list(range(count))


def test_both_let_gradients_through() -> None:
    for method in (lambda x: tome(x, 5), lambda x: visionzip(x, rand(16), rand(16, 3), 7)):
        tokens = rand(16, 4).requires_grad_()
        method(tokens).tokens.sum().backward()
        assert tokens.grad is not None
        assert bool(tokens.grad.any())


@pytest.mark.parametrize(
    ("tokens", "keep", "kept"),
    [
        (3841, 0.5, 1921), (3841, 0.25, 960), (3841, 1.0, 3841),  # all of 1.5K: 196 + 729 + 2916
        (196, 0.25, 49), (784, 0.5, 392), (2916, 0.25, 729), (3136, 0.25, 784),  # low-res, AnyRes, S2
        (3, 0.5, 2), (1, 0.01, 1), (4, 0.1, 1),
    ],
)  # fmt: skip
def test_kept_tokens_are_rounded_and_never_none(tokens: int, keep: float, kept: int) -> None:
    assert {Pruning(method=m, keep=keep).num_kept(tokens) for m in ("tome", "fastv", "visionzip")} == {kept}


@pytest.mark.parametrize("text", ["tome:0.5", "visionzip:0.25", "fastv:0.5", "fastv:0.125:3", "tome:1"])
def test_a_pruning_reads_what_it_writes(text: str) -> None:
    assert str(Pruning.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "tome", "tome:", "tome:half", "tome:nan", "tome:0", "tome:1.1", "tome:0.5:2", "fastv:0.5:0",
     "sparse:0.5", "fastv:0.5:x", "fastv:0.5:2:3"],
)  # fmt: skip
def test_what_is_no_pruning_is_refused(text: str) -> None:
    with pytest.raises(VilaHDError, match="pruning"):
        Pruning.parse(text)
