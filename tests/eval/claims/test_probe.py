"""The linear reader tells what is there, and nothing that is not."""

import torch

from eval.claims.probe import probe


def vectors(count, seed, *, signal):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 5, (count,), generator=generator)
    directions = torch.eye(5, 20)
    noise = torch.randn(count, 20, generator=generator)
    return 100 + signal * directions[classes] + noise, classes.tolist()


def test_it_tells_classes_that_differ_in_direction():
    right = probe(vectors(400, 0, signal=6.0), vectors(200, 1, signal=6.0), 5)
    assert len(right) == 200
    assert sum(right) / 200 > 0.95


def test_it_guesses_where_nothing_is_told():
    right = probe(vectors(400, 0, signal=0.0), vectors(400, 1, signal=0.0), 5)
    assert 0.1 < sum(right) / 400 < 0.3


def test_constant_features_do_no_harm():
    train, test = vectors(200, 0, signal=6.0), vectors(100, 1, signal=6.0)
    padded = [(torch.cat([part[0], torch.zeros(len(part[0]), 20)], dim=1), part[1]) for part in (train, test)]
    assert probe(padded[0], padded[1], 5) == probe(train, test, 5)
