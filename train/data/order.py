"""Which row a sample of a run is: pure functions of a seed and the sample's number, whoever asks and when."""

import bisect
from collections.abc import Sequence

import numpy as np

BLOCK = 1024
"""Samples in which every source has its share, up to a fraction of one."""

WINDOW = 4
"""Row groups between which rows are shuffled."""

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """A 64-bit number that looks random (the finaliser of splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permute(place: int, size: int, *key: int) -> int:
    """Entry ``place`` of a permutation of ``range(size)`` that ``key`` chooses, without making all of it.

    A Feistel network on the next power of four; what falls outside of the range is sent through again.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    seed = 0
    for part in key:
        seed = _mix(seed ^ (part & _MASK))
    while True:
        left, right = place >> half, place & mask
        for number in range(6):
            left, right = right, left ^ (_mix(seed ^ (number << 60) ^ right) & mask)
        place = (left << half) | right
        if place < size:
            return place


class RowOrder:
    """Order of the rows of one source: every row once per pass, shuffled anew in every pass."""

    def __init__(self, size: int, group_sizes: Sequence[int] | None, *key: int) -> None:
        """Order ``size`` rows.

        Args:
            size: number of rows.
            group_sizes: rows that are read together, group by group. Then groups are shuffled, and rows among
                ``WINDOW`` of them at a time.
            *key: chooses the order.
        """
        self.size = size
        self.key = key
        self.sizes = None if group_sizes is None else np.asarray(group_sizes, dtype=np.int64)
        self._pass: tuple[int, list[int], list[int], list[int]] | None = None

    def row(self, use: int) -> int:
        """Number of the row that use ``use`` of the source takes."""
        number, place = divmod(use, self.size)
        if self.sizes is None:
            return permute(place, self.size, *self.key, number)
        starts, groups, stops = self._groups(number)
        window = bisect.bisect_right(stops[WINDOW - 1 :: WINDOW], place)
        first = window * WINDOW
        begin = stops[first - 1] if first else 0
        end = stops[min(first + WINDOW, len(stops)) - 1]
        place = begin + permute(place - begin, end - begin, *self.key, number, window)
        group = bisect.bisect_right(stops, place)
        return starts[groups[group]] + place - (stops[group - 1] if group else 0)

    def _groups(self, number: int) -> tuple[list[int], list[int], list[int]]:
        """First row of each group, groups in the order of a pass, and rows up to the end of each of them."""
        assert self.sizes is not None
        if self._pass is None or self._pass[0] != number:
            order = np.random.default_rng([*self.key, number]).permutation(len(self.sizes))
            starts = np.cumsum(self.sizes) - self.sizes
            self._pass = (number, starts.tolist(), order.tolist(), np.cumsum(self.sizes[order]).tolist())
        return self._pass[1:]


class MixtureOrder:
    """Which source a sample is from, and how often that source was used before."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Mix sources in proportion to ``weights``."""
        total = sum(weights)
        self.shares = np.array([weight / total for weight in weights])
        self.seed = seed
        self.used = [np.zeros(len(weights), dtype=np.int64)]
        """Uses of each source before each block."""
        self._block: tuple[int, list[int], list[int]] | None = None

    def place(self, index: int) -> tuple[int, int]:
        """Source of sample ``index``, and the number of samples before it that are from the same source."""
        block, place = divmod(index, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self._make(block))
        return self._block[1][place], self._block[2][place]

    def _make(self, block: int) -> tuple[list[int], list[int]]:
        while len(self.used) < block + 2:
            self.used.append(self.used[-1] + self._counts(len(self.used)))
        counts = self.used[block + 1] - self.used[block]
        sources = np.repeat(np.arange(len(counts)), counts)
        sources = np.random.default_rng([self.seed, block]).permutation(sources)
        uses = np.empty(BLOCK, dtype=np.int64)
        for source, start in enumerate(self.used[block]):
            mine = sources == source
            uses[mine] = start + np.arange(int(mine.sum()))
        return sources.tolist(), uses.tolist()

    def _counts(self, blocks: int) -> np.ndarray:
        """Samples of each source in block ``blocks - 1``: all blocks up to it have the right shares."""
        missing = self.shares * BLOCK * blocks - self.used[-1]
        counts = np.maximum(np.floor(missing), 0).astype(np.int64)
        rest = BLOCK - int(counts.sum())
        # What is left over goes to the sources that miss most of a sample.
        order = np.argsort(
            counts - missing if rest > 0 else missing - counts + 2 * (counts == 0), kind="stable"
        )
        counts[order[: abs(rest)]] += np.sign(rest)
        return counts
