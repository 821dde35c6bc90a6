"""``speed mllm``: time to the first token of whole models on a 4K picture, ours next to Qwen2.5-VL."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vila_hd.errors import VilaHDError
from vila_hd.options import Pruning
from vila_hd.towers.choice import Kind
from vila_hd.towers.tiling import choose_tiles

from ..report import Cell, Column, Report, Table, machine_facts
from .client import Worker
from .machine import gemm_gflops
from .mllm_presets import WORDS, MllmPreset, get_mllm_preset, qwen_grid

SIZE = (3840, 2160)
"""Width and height of the picture in pixels."""

PEER = "Qwen2.5-VL"

WHOLE: dict[Kind, str] = {"low_res": "low resolution", "anyres": "AnyRes", "s2": "S2"}
"""Encoders that see whole pictures and how rows call them, with the settings that they have by default."""

TARGET_PATCHES, TARGET = 0.18, 5.0
"""At this share of the patches the first token shall come so many times as fast as the peer's."""


@dataclass(frozen=True, kw_only=True)
class MllmRun:
    """What to measure."""

    preset: str

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    device: str = "cpu"

    looks: tuple[int, ...] = (2, 4, 6, 12)
    """High-resolution passes of ours, a row each."""

    encoders: tuple[Kind, ...] = ("anyres", "s2")
    """Other ways to see with the trunk of ours, a row each."""

    prune: tuple[str, ...] = ()
    """Prunings of all visual tokens, a row each."""

    batches: tuple[int, ...] = (1, 4)
    """Prompts that are answered together, with a picture each."""

    max_pixels: int = 4_000_000
    """Qwen2.5-VL reduces pictures to so many pixels."""

    new: int = 9
    """Tokens of an answer; all but the first give the rate of decoding."""

    threads: int = 2

    runs: int = 3
    """Timed runs after one warm-up; the median counts."""

    seed: int = 0

    def __post_init__(self) -> None:
        get_mllm_preset(self.preset)
        for text in self.prune:
            Pruning.parse(text)
        unknown = [kind for kind in self.encoders if kind not in WHOLE]
        if unknown:
            raise VilaHDError(f"--encoders {unknown[0]}: use some of {', '.join(WHOLE)}")
        for name in ("looks", "batches"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise VilaHDError(f"--{name} {list(getattr(self, name))}: give numbers >= 1")
        for name, least in (("threads", 1), ("runs", 1), ("new", 2), ("max_pixels", 28 * 28)):
            if getattr(self, name) < least:
                raise VilaHDError(f"--{name.replace('_', '-')} {getattr(self, name)}: use {least} or more")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model with one way to look."""

    name: str

    job: Mapping[str, Any]
    """What only this one's worker is told."""

    flops: float
    """Floating-point operations of the matrix products up to the first token, for one picture."""

    share: float | None = None
    """Of the patches of ours that are looked at; None: it does not choose."""


def subjects_of(run: MllmRun) -> list[Subject]:
    """The peer first, as all others are compared with it."""
    preset = get_mllm_preset(run.preset)
    rows, columns = qwen_grid(*SIZE, run.max_pixels)
    tokens = rows * columns // 4 + WORDS
    flops = preset.qwen.flops(rows * columns) + preset.language.flops(tokens)
    found = [Subject(name=PEER, job={"subject": "qwen"}, flops=flops)]
    tower = preset.tower
    patches = sum((scale // tower.patch) ** 2 for scale in tower.scales[1:])
    for looks in run.looks:
        budget = min(looks * tower.pass_budget, patches)
        share = budget / patches
        job = {"subject": "vila_hd", "encoder": "ps3", "budget": budget, "prune": None}
        found.append(
            Subject(name=f"VILA-HD {share:.0%}", job=job, flops=flops_of(preset, budget), share=share)
        )
    for kind in run.encoders:
        job = {"subject": "vila_hd", "encoder": kind, "budget": "all", "prune": None}
        found.append(Subject(name=WHOLE[kind], job=job, flops=whole_flops(preset, kind)))
    for text in run.prune:
        job = {"subject": "vila_hd", "encoder": "ps3", "budget": "all", "prune": text}
        kept = None if Pruning.parse(text).in_language_model else Pruning.parse(text)
        found.append(Subject(name=f"all, {text}", job=job, flops=flops_of(preset, patches, kept)))
    return found


def flops_of(preset: MllmPreset, budget: int, pruning: Pruning | None = None) -> float:
    """Operations of ours up to the first token: the tower, the question's pass and the rest of the prompt."""
    tower, language = preset.tower, preset.language
    low = (-(-tower.scales[0] // tower.patch // 2)) ** 2
    visual = low + budget // 4
    if pruning is not None:
        return tower.flops(-(-budget // tower.pass_budget)) + language.flops(pruning.num_kept(visual) + WORDS)
    # The second pass goes on behind the low-resolution tokens of the first.
    language_flops = language.flops(low + WORDS) + language.flops(visual + WORDS) - language.flops(low)
    return tower.flops(-(-budget // tower.pass_budget)) + language_flops


def whole_flops(preset: MllmPreset, kind: Kind) -> float:
    """Operations of the trunk and the language model where whole pictures are seen."""
    tower = preset.tower
    side = tower.scales[0] // tower.patch
    per_view = (-(-side // 2)) ** 2
    if kind == "s2":
        squares, tokens = 1 + 4 + 16, (-(-4 * side // 2)) ** 2
    elif kind == "anyres":
        rows, columns = choose_tiles(SIZE[1], SIZE[0], tile=tower.scales[0], max_tiles=16)
        squares = 1 + rows * columns
        tokens = squares * per_view
    else:
        squares, tokens = 1, per_view
    return squares * tower.flops(0) + preset.language.flops(tokens + WORDS)


def measure(run: MllmRun, subject: Subject, batch: int) -> dict[str, Cell]:
    """One row, measured in a process of its own.

    Raises:
        VilaHDError: the worker failed.
    """
    job = {
        "preset": run.preset, "dtype": run.dtype, "device": run.device, "threads": run.threads,
        "seed": run.seed, "size": SIZE, "max_pixels": run.max_pixels, "batch": batch, "new": run.new,
        **subject.job,
    }  # fmt: skip
    command = [sys.executable, "-m", "eval.speed.mllm_worker"]
    with Worker(subject.name, command, job=job) as worker:
        worker.receive()
        worker.ask("run")
        timed = [worker.ask("run") for _ in range(run.runs)]
        memory = worker.ask("finish")

    def median(key: str) -> float:
        return statistics.median(answer[key] for answer in timed)

    decode = statistics.median(answer["seconds"] - answer["first_seconds"] for answer in timed)
    return {
        "who": subject.name, "batch": batch, "tokens": timed[0]["tokens"], "first": median("first_seconds"),
        "first_cpu": median("first_cpu_seconds"), "rate": batch * (run.new - 1) / decode,
        "peak": memory["peak_bytes"] / 1e6,
        "added": (memory["peak_bytes"] - memory["baseline_bytes"]) / 1e6,
        "tflop": batch * subject.flops / 1e12, "share": subject.share,
    }  # fmt: skip


def compare(rows: Sequence[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """The rows with how many times the peer's time, operations and memory of the same batch are of theirs."""
    peers = {row["batch"]: row for row in rows if row["who"] == PEER}
    compared = []
    for row in rows:
        peer = peers[row["batch"]]
        ratios = {f"{key}_ratio": _ratio(peer[key], row[key]) for key in ("first", "first_cpu", "tflop")}
        compared.append({**row, **ratios})
    return compared


def _ratio(peer: Cell, ours: Cell) -> float:
    assert isinstance(peer, int | float)
    assert isinstance(ours, int | float)
    return peer / ours


def main_table(rows: Sequence[dict[str, Cell]]) -> Table:
    """Seconds, rate and memory of every row."""
    columns = (
        Column(key="who", title="model"),
        Column(key="batch", title="batch"),
        Column(key="tokens", title="visual tokens"),
        Column(key="first", title="first token s", spec=".2f"),
        Column(key="first_ratio", title="faster", spec=".2f"),
        Column(key="first_cpu", title="CPU s", spec=".1f"),
        Column(key="first_cpu_ratio", title="less CPU", spec=".2f"),
        Column(key="tflop", title="TFLOP", spec=".2f"),
        Column(key="tflop_ratio", title="fewer", spec=".2f"),
        Column(key="rate", title="decoded tokens/s", spec=".1f"),
        Column(key="peak", title="peak MB", spec=".0f"),
        Column(key="added", title="above model MB", spec=".0f"),
    )
    return Table(title="One question about a 3840 x 2160 picture", columns=columns, rows=tuple(rows))


def verdict(rows: Sequence[dict[str, Cell]]) -> list[str]:
    """What became of the target, batch by batch."""
    lines = []
    for row in rows:
        share, faster, fewer = row["share"], row["first_ratio"], row["tflop_ratio"]
        if not isinstance(share, float) or abs(share - TARGET_PATCHES) > 0.01:
            continue
        assert isinstance(faster, float)
        assert isinstance(fewer, float)
        reached = "reached" if faster >= TARGET else "not reached"
        lines.append(
            f"{row['who']}, batch {row['batch']}: {faster:.2f} times as fast as {PEER}; the target of "
            f"{TARGET:g} is {reached}. Its matrix products are {fewer:.2f} times fewer."
        )
    return lines


def run_mllm(run: MllmRun, *, command: str) -> Report:
    """Measure all models.

    Raises:
        VilaHDError: a worker failed.
    """
    torch.set_num_threads(run.threads)
    preset, rows = get_mllm_preset(run.preset), []
    facts: dict[str, Cell] = {**machine_facts(), "threads": run.threads, "dtype": run.dtype}
    if run.device == "cpu":
        facts["GEMM GFLOP/s"] = round(gemm_gflops(getattr(torch, run.dtype)), 1)
    facts |= {"device": run.device, "preset": run.preset}
    facts["language model"] = f"{preset.language.depth} blocks of width {preset.language.width}"
    for batch in run.batches:
        for subject in subjects_of(run):
            print(f"measuring {subject.name}, batch {batch} ...", file=sys.stderr)
            rows.append(measure(run, subject, batch))
            print(f"  first token after {rows[-1]['first']:.2f} s", file=sys.stderr)
    compared = compare(rows)
    notes = (
        *verdict(compared),
        f"Random weights, the same language model in all, {WORDS} words behind each picture, {run.new} new "
        f"tokens. Median of {run.runs} after one warm-up, every row in a process of its own. From pixels in "
        "memory to the first token: in ours with resizing to all scales, the choice and both passes of the "
        f"language model; in {PEER} without its resizing to {run.max_pixels:,} pixels. CPU s: over all "
        "threads, what to trust on a machine that is shared. TFLOP: matrix products by arithmetic. Memory: "
        "resident set of the process, in 10^6 bytes.",
    )
    return Report(command=command, facts=facts, tables=(main_table(compared),), notes=notes)
