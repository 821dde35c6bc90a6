"""What a budget costs before it is paid: patches, passes, visual tokens, and seconds as measured so far."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila_hd import HighResOptions, Receipt, VilaHDProcessor

TEXT_ROOM = 256
"""Tokens of the language model's context that are left for question and answer."""

KEPT = 60
"""Measurements that an estimate is made of: the latest."""

SIZE = (2160, 3840)
"""(height, width) in pixels of the picture for which budgets are offered: 4K."""


@dataclass(frozen=True)
class Cost:
    """What looking at some pictures costs."""

    patches: int
    """High-resolution patches of all pictures."""

    passes: int
    """High-resolution encodings per picture."""

    tokens: int
    """Visual tokens of all pictures, at most."""

    seconds: float | None
    """Estimated from what was measured; None: nothing was measured yet."""

    fits: bool
    """Whether the language model can read so much."""

    def words(self) -> str:
        """The cost in one line."""
        if not self.fits:
            return f"{self.tokens:,} visual tokens: more than the language model reads"
        look = "low resolution only" if not self.patches else f"{self.patches:,} patches"
        passes = "" if not self.passes else f" in {self.passes} pass{'es' * (self.passes > 1)}"
        time = "" if self.seconds is None else f" · ~{max(self.seconds, 0.01):.2g} s"
        return f"{look}{passes} · up to {self.tokens:,} visual tokens{time}"


class Timings:
    """Seconds per answer as they were measured, and what they say about the next one."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, float, float]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, receipt: Receipt) -> None:
        """Remember one answer. Reading the files is left out: it is paid once, whatever the budget."""
        seconds = receipt.total_seconds - receipt.seconds.get("read", 0.0)
        patches = sum(look.num_chosen for look in receipt.looks)
        with self._lock:
            self._rows.append((len(receipt.looks), patches, seconds))

    def estimate(self, pictures: int, patches: int) -> float | None:
        """Seconds of an answer, by a line through the measurements; None before two budgets were measured."""
        with self._lock:
            rows = np.array(self._rows)
        if len(rows) < 2 or len(np.unique(rows[:, 1])) < 2:
            return None
        # Medians of equal budgets: one slow answer on a busy machine must not bend the line.
        budgets = np.unique(rows[:, 1])
        medians = [
            np.median(rows[rows[:, 1] == budget, 2] / np.maximum(rows[rows[:, 1] == budget, 0], 1))
            for budget in budgets
        ]
        slope, start = np.polyfit(budgets, medians, 1)
        slope = max(float(slope), 0.0)
        start = max(float(start), 0.0) if slope else float(np.mean(medians))
        return start * max(pictures, 1) + slope * patches


def cost_of(
    processor: VilaHDProcessor,
    sizes: Sequence[tuple[int, int]],
    budget: int,
    *,
    timings: Timings | None = None,
    context: int | None = None,
) -> Cost:
    """The cost of a budget.

    Args:
        processor: counts the tokens.
        sizes: (height, width) in pixels of each picture.
        budget: patches per picture.
        timings: what was measured so far.
        context: tokens that the language model reads; None: no limit.
    """
    counts = processor.count_image_tokens(sizes, HighResOptions(budget=budget))
    grids = [processor.patch_grids(*processor.image_processor.resized_size(*size)) for size in sizes]
    per_pass = sum(processor.patches_per_pass) or max(1, *(sum(r * c for r, c in grid) for grid in grids))
    chosen = [min(budget, sum(rows * columns for rows, columns in grid)) for grid in grids]
    tokens = sum(count.low_res + count.high_res for count in counts)
    return Cost(
        patches=sum(chosen),
        passes=max((-(-patches // per_pass) for patches in chosen), default=0),
        tokens=tokens,
        seconds=None if timings is None else timings.estimate(len(sizes), sum(chosen)),
        fits=context is None or tokens + TEXT_ROOM <= context,
    )


def offered_budgets(processor: VilaHDProcessor, default: int, context: int | None) -> list[int]:
    """Budgets of the slider: none, a quarter of the default and doubles, as far as one 4K picture fits.

    A tower that chooses nothing sees either its first view or all it can.
    """
    grids = processor.patch_grids(*processor.image_processor.resized_size(*SIZE))
    total = sum(rows * columns for rows, columns in grids)
    budgets, budget = [0], max(default // 4, 1)
    while processor.patches_per_pass and budget < total:
        budgets.append(budget)
        budget *= 2
    return [
        each
        for each in dict.fromkeys([*budgets, total])
        if cost_of(processor, [SIZE], each, context=context).fits
    ]
