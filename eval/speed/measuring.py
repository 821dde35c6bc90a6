"""The measuring loop of a worker process: the same code for our tower and for the peer, to treat both alike.

A peer's interpreter cannot import this project, so this file uses torch and the standard library only and is
loaded by path there. A worker reads one JSON object per line from standard input and answers each with one
JSON line: first the job, then any number of ``{"do": "run"}`` and ``{"do": "profile"}``, then
``{"do": "finish"}``.
"""

import ctypes
import gc
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch


class Outcome(NamedTuple):
    """What one run of the thing that is measured returned."""

    tokens: int
    """Visual tokens per picture."""

    check: float
    """Root mean square of the low-resolution features: equal for two implementations of the same weights. Of
    a training step: its loss."""

    items: int = 0
    """Training samples or answers of the run."""

    moved_bytes: int = 0
    """What the loader handed to the training process."""

    first_seconds: float = 0.0
    """Of an answer: wall time up to its first token."""

    first_cpu_seconds: float = 0.0
    """The same in processor time over all threads."""


Run = Callable[[], Outcome]
"""One measured run on the input that was prepared when the job was built."""


def random_pixels(side: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """A smooth random picture ``(1, 3, side, side)`` in normalised units, the same in every worker."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 54, 54, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="nearest").to(dtype)


def rms(features: torch.Tensor) -> float:
    """Root mean square of ``features`` in float32."""
    return float(features.float().pow(2).mean().sqrt())


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status, such as VmRSS or VmHWM, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no field {field}: memory can be measured on Linux only")
    return int(match.group(1)) * 1024


def resident_bytes() -> int:
    """Resident memory of this process now, after garbage and free allocator pages were given back."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return _status_bytes("VmRSS")


def reset_peak() -> None:
    """Make the kernel forget the peak of resident memory so far, where it allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak of the build stays in; peak_bytes() is then an upper bound


def peak_bytes() -> int:
    """Largest resident memory of this process since :func:`reset_peak`, in bytes."""
    try:
        return _status_bytes("VmHWM")
    except (OSError, RuntimeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


OPERATORS = {
    "linear layers": ("addmm", "mm", "linear", "mkldnn_linear"),
    "attention": (
        "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
        "exp2_", "softmax", "_softmax", "max", "div",
    ),
    "copies": ("copy_", "cat", "index", "gather", "fill_", "zero_"),
    "resizing and unfolding": ("upsample_bicubic2d", "im2col", "_upsample_bicubic2d_aa", "convolution"),
}  # fmt: skip
"""Kind of work -> names of torch's operators; everything else counts as other."""


def profile(run: Run) -> dict[str, float]:
    """Seconds of one run by kind of work, as torch's profiler sees them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    kind_of = {f"aten::{name}": kind for kind, names in OPERATORS.items() for name in names}
    seconds = dict.fromkeys([*OPERATORS, "other"], 0.0)
    for entry in profiler.key_averages():
        seconds[kind_of.get(entry.key, "other")] += entry.self_cpu_time_total / 1e6
    return seconds


def _private_stdout() -> TextIO:
    """The real standard output; whatever libraries print from now on goes to standard error instead."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return channel


def serve(build: Callable[[dict[str, Any]], Run], *, training: bool = False) -> None:
    """Answer the commands on standard input until ``finish``.

    Args:
        build: makes the model and its input from the job and returns the run to measure; the memory baseline
            is taken after it, with every weight touched.
        training: the run needs gradients.
    """
    channel = _private_stdout()

    def answer(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    started = time.perf_counter()
    run = build(job)
    baseline = resident_bytes()
    reset_peak()
    answer(build_seconds=time.perf_counter() - started, baseline_bytes=baseline)
    peak = baseline  # of the measured runs alone: the profiler needs memory of its own
    for line in sys.stdin:
        what = json.loads(line)["do"]
        if what == "finish":
            break
        if what == "profile":
            with torch.inference_mode():
                answer(**profile(run))
            continue
        started, cpu_started = time.perf_counter(), time.process_time()
        with torch.inference_mode(not training):
            outcome = run()
        peak = peak_bytes()
        answer(
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu_started,
            **outcome._asdict(),
        )
    answer(baseline_bytes=baseline, peak_bytes=peak)
