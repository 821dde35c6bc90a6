"""Means of what the steps report, and speed: over all micro-batches and ranks since the last log."""

import resource
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from .distributed import gather_objects

RATES = ("pictures", "looks", "tokens", "visual_tokens")
"""What is counted per second."""


class Meter:
    """Collects on this rank; reads over all ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.since = time.perf_counter()

    def add(self, metrics: dict[str, Tensor], batch: dict[str, Any]) -> None:
        """Take the metrics and the sizes of one micro-batch."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().float().cpu()
            self.counts[name] += 1
        seen = count_batch(batch)
        if "visual_tokens" in metrics:
            seen["visual_tokens"] = round(float(metrics["visual_tokens"]) * seen["looks"])
        self.seen += seen

    def read(self) -> dict[str, float]:
        """Everything since the last call, over all ranks; they may have reported different things."""
        now = time.perf_counter()
        sums = {name: float(value) for name, value in self.sums.items()}
        parts = gather_objects((sums, self.counts, self.seen, now - self.since, peak_memory()))
        self.sums, self.counts, self.seen, self.since = {}, Counter(), Counter(), now
        total: Counter[str] = Counter()
        count: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        for part in parts:
            for name, value in part[0].items():
                total[name] += value  # type: ignore[assignment]
            count += part[1]
            seen += part[2]
        seconds = max(part[3] for part in parts)
        means = {name: round(total[name] / count[name], 5) for name in sorted(total)}
        rates = {f"{name}_per_s": round(seen[name] / seconds, 2) for name in RATES if seen[name]}
        memory = {"peak_memory_gb": round(max(part[4] for part in parts), 3)}
        return {**means, **rates, **memory}


def count_batch(batch: dict[str, Any]) -> Counter[str]:
    """Pictures, looks and tokens of one micro-batch."""
    pictures, looks = batch.get("pixel_values"), batch.get("look_index")
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    seen: Counter[str] = Counter(
        pictures=0 if pictures is None else len(pictures),
        looks=0 if looks is None else len(looks),
        tokens=int(mask.sum()) if mask is not None else 0 if ids is None else ids.numel(),
    )
    return seen


def peak_memory() -> float:
    """The most memory that this process held so far, in GB: of its GPU, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


__all__ = ["Meter", "count_batch", "peak_memory"]
