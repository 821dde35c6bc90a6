"""Claim 7: cost over resolution, next to encoding the whole picture and to what the machine can do."""

import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vila_hd.errors import VilaHDError

from ..plots import Chart, Line
from ..report import Cell, Column, Table
from ..speed.client import Worker
from ..speed.machine import attention_gflops, gemm_gflops
from ..speed.presets import Preset
from .claim import Check, Claim, Finding
from .training import say
from .workshop import Workshop

DTYPE = "bfloat16"
FULL_LIMIT = 1e13
"""Floating-point operations up to which a picture is encoded as a whole; above, only computed."""

PATCH = 14

PS3, WHOLE = "PS3", "whole picture"
"""Kinds of encodings."""

NEAR = 1.5
"""A cost that grows by less than this is called near-constant."""


def _preset(name: str, width: int, heads: int, depth: int, scales: tuple[int, ...], budget: int) -> Preset:
    """A tower with patches of 14 pixels whose selector sees the scale of 1512 pixels, or the largest."""
    config = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "patch_size": PATCH,
        "select_based_on_layer": [0, depth // 3, 2 * depth // 3, depth - 1],
        "max_select_num": budget,
        "highres_selection_module_hidden_dim": width // 3,
        "highres_selection_module_out_dim": width // 3,
        "selection_image_size": min(1512, scales[-1]),
    }
    return Preset(
        name=name, config=config, depth=depth, width=width, intermediate=4 * width, patch=PATCH,
        scales=scales, pass_budget=budget,
    )  # fmt: skip


PRESETS: Mapping[str, Preset] = {
    "small": _preset("ViT-S/14", 384, 6, 12, (378, 756, 1512, 3780), 2560),
    "tiny": _preset("tiny", 48, 3, 2, (56, 112, 224), 24),
}
"""Towers of the published scales and patches per look; the whole picture at 3780 px would take a large one
half an hour."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to encode a picture of one size."""

    kind: str
    side: int
    tokens: int

    flops: tuple[float, float]
    """Floating-point operations of the blocks' linear layers and of their attention."""

    config: Mapping[str, object]

    patches: int | None
    """High-resolution patches; None: the whole picture at ``side`` pixels in one pass."""


def encodings(preset: Preset) -> Iterator[Encoding]:
    """PS3 and the whole picture for every high-resolution scale as the largest."""
    low, budget = (preset.scales[0] // preset.patch) ** 2, preset.pass_budget
    for count in range(2, len(preset.scales) + 1):
        scales = preset.scales[:count]
        side, whole = scales[-1], (scales[-1] // preset.patch) ** 2
        first, further = preset.encode(low, low), preset.encode(budget, low + budget)
        yield Encoding(
            kind=PS3,
            side=side,
            tokens=low + budget,
            flops=(first[0] + further[0], first[1] + further[1]),
            config={**preset.config, "ps3_scales": scales},
            patches=budget,
        )
        yield Encoding(
            kind=WHOLE,
            side=side,
            tokens=whole,
            flops=preset.encode(whole, whole),
            config={**preset.config, "ps3_scales": (side, 2 * side)},
            patches=None,
        )


def measure_seconds(encoding: Encoding, *, threads: int, runs: int) -> dict[str, Any]:
    """Seconds of single runs, tokens and memory of one worker."""
    name = f"{encoding.kind} at {encoding.side} px"
    say(f"measuring {name}")
    job = {
        "config": encoding.config, "patches": encoding.patches, "side": encoding.side, "dtype": DTYPE,
        "threads": threads,
    }  # fmt: skip
    with Worker(name, [sys.executable, "-m", "eval.claims.cost_worker"], job=job) as worker:
        worker.receive()
        worker.ask("run")
        timed = [worker.ask("run") for _ in range(runs)]
        memory = worker.ask("finish")
    if timed[0]["tokens"] != encoding.tokens:
        raise VilaHDError(f"{name} returned {timed[0]['tokens']} tokens, expected {encoding.tokens}")
    return {
        "times": [answer["cpu_seconds"] for answer in timed],
        "seconds": statistics.median(answer["seconds"] for answer in timed),
        "cpu": statistics.median(answer["cpu_seconds"] for answer in timed),
        "memory": (memory["peak_bytes"] - memory["baseline_bytes"]) / 1e6,
    }


def measure_cost(workshop: Workshop) -> Finding:
    """PS3 with one number of patches at growing resolutions, and all patches of the same scales."""
    preset, effort, threads = PRESETS[workshop.effort.preset], workshop.effort, workshop.cores
    torch.set_num_threads(threads)
    dtype, heads = getattr(torch, DTYPE), int(str(preset.config["num_attention_heads"]))
    rates = gemm_gflops(dtype), attention_gflops(dtype, heads=heads, width=preset.width)
    rows: list[dict[str, Cell]] = []
    times: dict[tuple[str, int], list[float]] = {}
    for encoding in encodings(preset):
        row: dict[str, Cell] = {
            "kind": encoding.kind,
            "side": encoding.side,
            "tokens": encoding.tokens,
            "tflops": sum(encoding.flops) / 1e12,
            "limit": sum(flops / rate / 1e9 for flops, rate in zip(encoding.flops, rates, strict=True)),
        }
        if sum(encoding.flops) <= FULL_LIMIT:
            found = measure_seconds(encoding, threads=threads, runs=effort.runs)
            times[encoding.kind, encoding.side] = found.pop("times")
            row |= found
        rows.append(row)
    note = (
        f"{preset.name}, random weights, {DTYPE}, {threads} threads. The limit is what linear layers and "
        "attention of the blocks take at the rates of this machine's own matrix product "
        f"({rates[0]:.0f} GFLOP/s) and attention ({rates[1]:.0f} GFLOP/s). CPU s: of all threads, median of "
        f"{effort.runs} runs after one to warm up. Memory: peak above the model and its picture. A row "
        f"without seconds takes more than {FULL_LIMIT / 1e12:.0f} TFLOP and was not run."
    )
    tables, plots = (cost_table(preset, rows),), charts(rows)
    return Finding(checks=checks(rows, times), tables=tables, charts=plots, notes=(note,))


def growth(
    times: Mapping[tuple[str, int], list[float]], kind: str, sides: tuple[int, int]
) -> tuple[float, ...]:
    """Ratio of the cost at two resolutions: of the medians, and the extremes over all pairs of runs."""
    below, above = times[kind, sides[0]], times[kind, sides[1]]
    middle = statistics.median(above) / statistics.median(below)
    return middle, min(above) / max(below), max(above) / min(below)


def checks(rows: list[dict[str, Cell]], times: Mapping[tuple[str, int], list[float]]) -> tuple[Check, ...]:
    """That PS3's cost stays and that of the whole picture grows, in operations, seconds and memory."""
    by = {(str(row["kind"]), int(row["side"] or 0)): row for row in rows}
    sides = sorted({side for _, side in by})
    bottom, top = sides[0], sides[-1]
    run = max(side for kind, side in times if kind == WHOLE)
    growing = f"{(top / bottom) ** 2:.0f} times the pixels ({bottom} to {top} px)"
    value, low, high = growth(times, PS3, (bottom, top))
    constant = Check(
        statement=f"PS3: processor time grows less than {NEAR}x with {growing}",
        value=value, low=low, high=high, bound=NEAR, at_least=False, unit="x",
    )  # fmt: skip
    value, low, high = growth(times, WHOLE, (bottom, run))
    pixels = (run / bottom) ** 2
    whole = Check(
        statement=f"whole picture: processor time grows more than the pixels ({pixels:.0f}x, {bottom} to "
        f"{run} px)",
        value=value, low=low, high=high, bound=pixels, unit="x",
    )  # fmt: skip
    memory = [float(by[PS3, side]["memory"] or 0) for side in (bottom, top)]
    ratio = memory[1] / max(memory[0], 1e-9)
    needs = float(by[WHOLE, top]["tflops"] or 0) / float(by[PS3, top]["tflops"] or 1)
    return (
        constant,
        whole,
        Check(
            statement=f"PS3: memory above the model grows less than {NEAR}x with {growing}",
            value=ratio, low=ratio, high=ratio, bound=NEAR, at_least=False, unit="x",
        ),
        Check(
            statement=f"at {top} px the whole picture needs more than 10x the operations of PS3",
            value=needs, low=needs, high=needs, bound=10, unit="x",
        ),
    )  # fmt: skip


def cost_table(preset: Preset, rows: list[dict[str, Cell]]) -> Table:
    """Cost over resolution."""
    columns = (
        Column(key="kind", title="encoded"),
        Column(key="side", title="top scale px"),
        Column(key="tokens", title="tokens"),
        Column(key="tflops", title="TFLOP", spec=".2f"),
        Column(key="seconds", title="s", spec=".2f"),
        Column(key="cpu", title="CPU s", spec=".2f"),
        Column(key="limit", title="limit s", spec=".2f"),
        Column(key="memory", title="memory MB", spec=".0f"),
    )
    title = f"One picture, PS3 with {preset.pass_budget} patches and everything"
    return Table(title=title, columns=columns, rows=tuple(rows))


def charts(rows: list[dict[str, Cell]]) -> tuple[Chart, ...]:
    """Seconds and memory over resolution; rows that were not run have no point."""

    def lines(key: str) -> tuple[Line, ...]:
        found = []
        for kind in (PS3, WHOLE):
            mine = [row for row in rows if row["kind"] == kind and row.get(key) is not None]
            points = tuple((float(row["side"] or 0), float(row[key] or 0)) for row in mine)
            found.append(Line(name=kind, points=points))
        return tuple(found)

    return (
        Chart(title="Seconds", x="top scale, px", y="s", lines=lines("seconds")),
        Chart(title="Memory", x="top scale, px", y="MB above the model", lines=lines("memory")),
    )


COST = Claim(
    number=7,
    title="Near-constant cost at growing resolution",
    paper="Pre-training at 4K needs 79 times less compute than with SigLIP, whose cost grows with the "
    "square of the "
    "pixels; PS3's follows the number of patches (Figure 1, Section 3).",
    method="A tower with random weights and the published scales and patches per look, one forward pass "
    "per picture, "
    "against the same transformer over every patch of the top scale.",
    measure=measure_cost,
    minutes=6,
)
