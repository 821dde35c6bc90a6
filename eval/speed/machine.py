"""What the machine itself can do: the rate that the tower's speed is compared with."""

import time

import torch


def gemm_gflops(dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Best rate of a matrix product of the tower's largest shape, in GFLOP/s, with torch's threads."""
    rows, inner, columns = 2560, 1152, 4304
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(rows, inner, generator=generator).to(dtype)
    right = torch.rand(columns, inner, generator=generator).to(dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    runs = 0
    while runs < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - started)
        runs += 1
    return 2 * rows * inner * columns / best / 1e9
