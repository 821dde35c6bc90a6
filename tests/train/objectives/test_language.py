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
    sums = [
        F.cross_entropy(logits[part], labels[part], reduction="sum") for part in (slice(0, 3), slice(3, 10))
    ]
    shares = [language.rank_share(total / 10, ranks=2) for total in sums]
    assert float(sum(shares) / 2) == pytest.approx(float(F.cross_entropy(logits, labels)))


def test_exact_match_needs_every_token_of_an_answer():
    labels = torch.tensor([[-100, 1, 2, -100, 4], [-100, -100, 3, -100, -100], [0, -100, -100, -100, -100]])
    logits = torch.nn.functional.one_hot(torch.tensor([1, 4, 4, 3]), 5).float()
    assert float(language.exact_match(logits, labels)) == pytest.approx(2 / 3)
    assert float(language.exact_match(logits[:0], labels[2:])) == 1.0
