"""Token counting and the global normalisation of the language loss."""

import pytest
import torch
from torch.nn import functional as F

from train.objectives import language


def test_first_position_is_not_counted():
    assert language.count_supervised(torch.tensor([[5, -100, 6], [-100, -100, 7]])) == 2


def test_ranks_with_uneven_tokens_average_to_the_global_mean():
    gen = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(10, 7, generator=gen), torch.randint(0, 7, (10,), generator=gen)
    parts = [slice(0, 3), slice(3, 10)]
    shares = [
        language.rescale_to_global_tokens(
            F.cross_entropy(logits[part], labels[part]),
            local_tokens=len(labels[part]),
            global_tokens=10,
            ranks=2,
        )
        for part in parts
    ]
    assert float(sum(shares) / 2) == pytest.approx(float(F.cross_entropy(logits, labels)))


def test_empty_rank_adds_zero_even_from_nan():
    loss = language.rescale_to_global_tokens(
        torch.tensor(float("nan")), local_tokens=0, global_tokens=5, ranks=2
    )
    assert float(loss) == 0


def test_answer_accuracy_looks_at_supervised_tokens_only():
    labels = torch.tensor([[-100, 1, 2], [-100, -100, 3]])
    logits = torch.zeros(2, 3, 5)
    logits[0, 0, 1] = logits[0, 1, 2] = 1.0
    logits[1, 1, 4] = 1.0
    assert float(language.answer_accuracy(logits, labels)) == 0.5
