"""Contrastive loss: hand values, masking, and independence of the number of ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from train.objectives import contrastive


def make_rows(count: int) -> contrastive.Pairs:
    gen = torch.Generator().manual_seed(3)
    return contrastive.Pairs(
        torch.randn(count, 8, generator=gen),
        torch.randn(count, 8, generator=gen),
        torch.arange(count) // 2,
        torch.randint(0, 4, (count,), generator=gen),
    )


def loss_and_grads(pairs: contrastive.Pairs, **options: bool) -> tuple[torch.Tensor, ...]:
    visual, text = pairs.visual.clone().requires_grad_(), pairs.text.clone().requires_grad_()
    scale, bias = torch.tensor(1.2, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    rows = contrastive.Pairs(visual, text, pairs.picture, pairs.caption)
    loss = contrastive.sigmoid_contrastive_loss(rows, scale, bias, **options)
    loss.backward()
    return loss.detach(), visual.grad, text.grad, scale.grad, bias.grad


def worker(index: int, splits: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=len(splits))
    rows = make_rows(sum(splits))
    own = slice(sum(splits[:index]), sum(splits[: index + 1]))
    part = contrastive.Pairs(*(getattr(rows, name)[own] for name in rows.__dataclass_fields__))
    torch.save(loss_and_grads(part), f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_value_by_hand():
    pairs = contrastive.Pairs(torch.eye(2), torch.eye(2) * 5, torch.tensor([0, 1]), torch.tensor([0, 1]))
    loss = contrastive.sigmoid_contrastive_loss(pairs, torch.tensor(math.log(3.0)), torch.tensor(-1.0))
    matched, other = math.log1p(math.exp(-2.0)), math.log1p(math.exp(-1.0))
    assert float(loss) == pytest.approx((2 * matched + 2 * other) / 2)


def test_same_caption_is_never_a_negative_and_same_picture_only_if_asked():
    picture, caption = torch.tensor([0, 0, 1, 1]), torch.tensor([7, 8, 7, 9])
    across = contrastive.negatives(picture, caption, picture, caption, intra_image=False)
    assert across.tolist() == [
        [False, False, False, True],
        [False, False, True, True],
        [False, True, False, False],
        [True, True, False, False],
    ]
    within = contrastive.negatives(picture, caption, picture, caption, intra_image=True)
    assert bool(within[0, 1])
    assert not bool(within[0, 2])
    assert not within.diagonal().any()


def test_retrieval_accepts_the_same_wording():
    pairs = contrastive.Pairs(torch.eye(3), torch.eye(3)[[1, 0, 2]], torch.arange(3), torch.tensor([4, 4, 5]))
    assert float(contrastive.retrieval_rate(pairs)) == 1.0


def test_two_ranks_with_uneven_rows_equal_one(tmp_path: Path):
    splits = [2, 4]
    multiprocessing.spawn(worker, (splits, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2)]
    loss, visual, text, scale, bias = loss_and_grads(make_rows(6))
    # The engine averages over ranks; rows of one rank get their whole gradient there, hence the factor 1/2.
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]) / 2, visual)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]) / 2, text)
    torch.testing.assert_close((parts[0][3] + parts[1][3]) / 2, scale)
    torch.testing.assert_close((parts[0][4] + parts[1][4]) / 2, bias)
