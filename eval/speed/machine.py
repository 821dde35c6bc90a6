"""What the machine itself can do: the rate that the tower's speed is compared with."""

import time
from collections.abc import Callable

import torch


def gemm_gflops(dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Best rate of a matrix product of the tower's largest shape, in GFLOP/s, with torch's threads."""
    rows, inner, columns = 2560, 1152, 4304
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(rows, inner, generator=generator).to(dtype)
    right = torch.rand(columns, inner, generator=generator).to(dtype)
    best = _best_seconds(lambda: torch.nn.functional.linear(left, right), seconds)
    return 2 * rows * inner * columns / best / 1e9


def attention_gflops(
    dtype: torch.dtype, *, tokens: int = 2560, heads: int = 16, width: int = 1152, seconds: float = 1.0
) -> float:
    """Best rate of torch's own attention of ``tokens`` over ``tokens``, in GFLOP/s, with torch's threads."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, heads, tokens, width // heads)
    query, key, value = (torch.rand(shape, generator=generator).to(dtype) for _ in range(3))
    attention = torch.nn.functional.scaled_dot_product_attention
    return 4 * tokens**2 * width / _best_seconds(lambda: attention(query, key, value), seconds) / 1e9


def _best_seconds(run: Callable[[], object], seconds: float) -> float:
    """Shortest of as many runs as fit into ``seconds``, at least three."""
    best = float("inf")
    end = time.perf_counter() + seconds
    runs = 0
    while runs < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        runs += 1
    return best
