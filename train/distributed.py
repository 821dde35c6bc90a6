"""Collectives that the objectives need. Every function works without a process group: then it is the
identity."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(value: float, device: torch.device) -> float:
    """Sum of a number over ranks; every rank calls it."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total)


def gather_objects(value: T) -> list[T]:
    """``value`` of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def same_everywhere(value: T) -> T:
    """``value`` of rank 0."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` holds on at least one rank."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)], device="cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


class _GatherRows(torch.autograd.Function):
    """All-gather along dim 0 whose backward returns the gradient of the *sum of all ranks' losses*."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: rank()]), rows.shape[0]
        longest = max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None


def row_counts(rows: Tensor) -> list[int]:
    """``rows.shape[0]`` of every rank, in rank order."""
    if world_size() == 1:
        return [rows.shape[0]]
    mine = torch.tensor([rows.shape[0]], device=rows.device)
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return [int(part) for part in parts]


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks in rank order; differentiable; ranks may hold different numbers of rows.

    Args:
        rows: ``(n, ...)`` of this rank.
        counts: rows of each rank, from :func:`row_counts`.
    """
    if len(counts) == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, counts)
    return gathered
