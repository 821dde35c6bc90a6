"""Which sample a row of a run shows: pure functions of (seed, row), so that a run can resume anywhere.

Sources take turns by weight. Every source goes through all of its samples before it repeats one: shards in a
new random order each time, and samples shuffled within a window of them.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CYCLE = 1000
"""Rows in which every source gets its exact share, rounded to whole rows."""


def cycle_quotas(weights: Sequence[float], rows: int = CYCLE) -> list[int]:
    """Whole rows of each source in a cycle, by largest remainder; their sum is ``rows``."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * rows
    quotas = np.floor(exact).astype(int)
    for i in np.argsort(quotas - exact, kind="stable")[: rows - int(quotas.sum())]:
        quotas[i] += 1
    return [int(quota) for quota in quotas]


class SourceOrder:
    """Row of the run -> source and position in the sequence of that source."""

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        """Share rows by ``weights``."""
        self.quotas = cycle_quotas(weights)
        self.seed = seed
        self._cycle = lru_cache(maxsize=4)(self._make_cycle)

    def _make_cycle(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of every row of a cycle, and how many rows of that source came before it."""
        owner = np.repeat(np.arange(len(self.quotas)), self.quotas)
        np.random.default_rng((self.seed, 1, number)).shuffle(owner)
        before = np.zeros(len(owner), dtype=np.int64)
        for source in range(len(self.quotas)):
            mine = owner == source
            before[mine] = np.arange(int(mine.sum()))
        return owner, before

    def at(self, row: int) -> tuple[int, int]:
        """Source and position of ``row``."""
        number, place = divmod(row, CYCLE)
        owner, before = self._cycle(number)
        source = int(owner[place])
        return source, number * self.quotas[source] + int(before[place])


class SampleOrder:
    """Position in the endless sequence of one source -> shard and sample."""

    def __init__(self, counts: Sequence[int], *, seed: Sequence[int], window: int) -> None:
        """Plan the sequence.

        Args:
            counts: samples of each shard.
            seed: several sources of one run need different ones.
            window: samples that are shuffled together.
        """
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self.seed = tuple(seed)
        self.window = window
        self._shards = lru_cache(maxsize=2)(self._make_shards)
        self._places = lru_cache(maxsize=2)(self._make_places)

    def _make_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng((*self.seed, 2, epoch)).permutation(len(self.counts))
        return order, np.cumsum(self.counts[order])

    def _make_places(self, epoch: int, number: int) -> np.ndarray:
        size = min(self.window, self.total - number * self.window)
        return np.random.default_rng((*self.seed, 3, epoch, number)).permutation(size)

    def at(self, position: int) -> tuple[int, int]:
        """Shard and number of the sample in it."""
        epoch, place = divmod(position, self.total)
        number, inside = divmod(place, self.window)
        place = number * self.window + int(self._places(epoch, number)[inside])
        order, ends = self._shards(epoch)
        k = int(np.searchsorted(ends, place, side="right"))
        return int(order[k]), place - (int(ends[k - 1]) if k else 0)
