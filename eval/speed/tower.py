"""``speed tower``: one forward of the vision tower, ours next to ps3-torch, same weights and same input."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vila_hd.errors import VilaHDError
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.modeling_ps3 import PS3VisionModel

from ..report import Cell, Column, Report, Table, machine_facts
from .client import Worker, script_beside
from .machine import gemm_gflops
from .presets import Preset, get_preset

PEER = "ps3-torch 0.1.3"


@dataclass(frozen=True, kw_only=True)
class TowerRun:
    """What to measure."""

    preset: str

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    looks: tuple[int, ...] = (1, 6)
    """High-resolution passes, one table row each."""

    peer_python: Path | None = None
    """Interpreter with ps3-torch installed; None: measure ours only."""

    threads: int = 2
    """Threads of torch in every worker."""

    runs: int = 3
    """Timed runs after one warm-up run; the median counts."""

    seed: int = 0

    def __post_init__(self) -> None:
        get_preset(self.preset)
        if not self.looks or min(self.looks) < 1:
            raise VilaHDError(f"--looks {list(self.looks)}: give passes >= 1")
        for name in ("threads", "runs"):
            if getattr(self, name) < 1:
                raise VilaHDError(f"--{name} {getattr(self, name)}: use 1 or more")
        if self.peer_python is not None and not self.peer_python.is_file():
            raise VilaHDError(
                f"--peer-python {self.peer_python} does not exist: give the python of an environment "
                "with ps3-torch==0.1.3"
            )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One worker's result."""

    seconds: float
    """Wall time of one forward, median over the timed runs."""

    cpu_seconds: float
    """Processor time of one forward over all threads, median: what to trust on a machine that is shared."""

    baseline_bytes: int
    """Resident memory after building the model, with every weight touched, and its input."""

    peak_bytes: int
    """Largest resident memory while running."""

    tokens: int
    """Visual tokens returned per picture."""

    check: float
    """Root mean square of the low-resolution features."""

    profile: Mapping[str, float]
    """Seconds of one more run by kind of work."""


def require_peer(python: Path) -> None:
    """Check that ``python`` is an interpreter with the peer installed, before anything takes time.

    Raises:
        VilaHDError: it is not.
    """
    code = "from importlib.metadata import version; print(version('ps3-torch'))"
    fix = "give the python of an environment with ps3-torch==0.1.3"
    try:
        found = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VilaHDError(f"--peer-python {python} does not run: {fix}") from error
    if found.returncode:
        raise VilaHDError(f"--peer-python {python} has no package ps3-torch: {fix}")
    if found.stdout.strip() != PEER.split()[-1]:
        raise VilaHDError(f"--peer-python {python} has ps3-torch {found.stdout.strip()}: {fix}")


def _commands(run: TowerRun) -> dict[str, list[str]]:
    """Worker name -> command, ours first."""
    commands = {"ours": [sys.executable, "-m", "eval.speed.worker"]}
    if run.peer_python is not None:
        commands["peer"] = [str(run.peer_python), "-W", "ignore", script_beside("peer_ps3.py")]
    return commands


def save_random_tower(preset: Preset, folder: Path, *, dtype: torch.dtype, seed: int) -> None:
    """Save a randomly initialised tower of ours in the published layout, which the peer reads as well."""
    torch.manual_seed(seed)
    PS3VisionModel(PS3VisionConfig(**preset.config)).to(dtype).save_pretrained(folder)


def measure_row(run: TowerRun, preset: Preset, folder: Path, *, looks: int) -> dict[str, Measurement]:
    """Measure every implementation once built and warmed up, in alternating runs.

    Raises:
        VilaHDError: a worker failed, or the implementations do not compute the same thing.
    """
    job = {
        "folder": str(folder), "dtype": run.dtype, "threads": run.threads, "side": preset.side,
        "seed": run.seed, "looks": looks, "pass_budget": preset.pass_budget,
        "low_res_tokens": (preset.scales[0] // preset.patch) ** 2,
    }  # fmt: skip
    with ExitStack() as stack:
        workers = {}
        for name, command in _commands(run).items():  # one after the other: loading is the largest moment
            workers[name] = stack.enter_context(Worker(f"{name} ({preset.name})", command, job=job))
            workers[name].receive()
        warm = {name: worker.ask("run") for name, worker in workers.items()}
        timed: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for _ in range(run.runs):
            for name, worker in workers.items():
                timed[name].append(worker.ask("run"))
        profiles = {name: worker.ask("profile") for name, worker in workers.items()}
        memory = {name: worker.ask("finish") for name, worker in workers.items()}
    results = {
        name: Measurement(
            seconds=statistics.median(answer["seconds"] for answer in timed[name]),
            cpu_seconds=statistics.median(answer["cpu_seconds"] for answer in timed[name]),
            tokens=warm[name]["tokens"], check=warm[name]["check"], profile=profiles[name], **memory[name],
        )
        for name in workers
    }  # fmt: skip
    require_same_work(results)
    return results


def require_same_work(results: dict[str, Measurement]) -> None:
    """Refuse a comparison of different things: other weights, or another number of tokens."""
    ours, peer = results["ours"], results.get("peer")
    if peer is None:
        return
    if ours.tokens != peer.tokens:
        raise VilaHDError(f"ours returned {ours.tokens} tokens and the peer {peer.tokens}: not comparable")
    if abs(ours.check - peer.check) > 0.02 * abs(peer.check):
        raise VilaHDError(
            f"low-res features have RMS {ours.check:.4g} in ours and {peer.check:.4g} in the peer: "
            "not the same weights"
        )


def table_row(preset: Preset, looks: int, results: dict[str, Measurement]) -> dict[str, Cell]:
    """One row of the main table. Memory is in MB (10^6 bytes)."""
    row: dict[str, Cell] = {"preset": preset.name, "side": preset.side, "looks": looks}
    row["tokens"] = results["ours"].tokens
    for name, result in results.items():
        row[f"{name}_seconds"] = result.seconds
        row[f"{name}_cpu"] = result.cpu_seconds
        row[f"{name}_peak"] = result.peak_bytes / 1e6
        row[f"{name}_added"] = (result.peak_bytes - result.baseline_bytes) / 1e6
    row["ours_gflops"] = preset.flops(looks) / results["ours"].seconds / 1e9
    if "peer" in results:
        row["speedup"] = results["peer"].seconds / results["ours"].seconds
        row["cpu_ratio"] = results["peer"].cpu_seconds / results["ours"].cpu_seconds
        row["peak_ratio"] = results["ours"].peak_bytes / results["peer"].peak_bytes
        peer_added = row["peer_added"]
        assert isinstance(peer_added, float)
        ours_added = row["ours_added"]
        assert isinstance(ours_added, float)
        row["added_ratio"] = ours_added / peer_added if peer_added else None
    return row


def main_table(rows: Sequence[dict[str, Cell]], *, with_peer: bool) -> Table:
    """Seconds and memory of every row."""
    columns = [
        Column(key="preset", title="tower"),
        Column(key="side", title="input px"),
        Column(key="looks", title="looks"),
        Column(key="tokens", title="tokens"),
        Column(key="ours_seconds", title="ours s", spec=".2f"),
        Column(key="peer_seconds", title="peer s", spec=".2f"),
        Column(key="speedup", title="peer/ours", spec=".2f"),
        Column(key="ours_cpu", title="ours CPU s", spec=".1f"),
        Column(key="peer_cpu", title="peer CPU s", spec=".1f"),
        Column(key="cpu_ratio", title="peer/ours", spec=".2f"),
        Column(key="ours_peak", title="ours peak MB", spec=".0f"),
        Column(key="peer_peak", title="peer peak MB", spec=".0f"),
        Column(key="peak_ratio", title="ours/peer", spec=".2f"),
        Column(key="ours_added", title="ours above model MB", spec=".0f"),
        Column(key="peer_added", title="peer above model MB", spec=".0f"),
        Column(key="added_ratio", title="ours/peer", spec=".2f"),
        Column(key="ours_gflops", title="ours GFLOP/s", spec=".0f"),
    ]
    if not with_peer:
        hidden = (
            "peer_seconds",
            "speedup",
            "peer_cpu",
            "cpu_ratio",
            "peer_peak",
            "peak_ratio",
            "peer_added",
            "added_ratio",
        )
        columns = [column for column in columns if column.key not in hidden]
    return Table(title="One forward of the vision tower", columns=tuple(columns), rows=tuple(rows))


def profile_table(preset: Preset, results: Mapping[str, Measurement], gflops: float) -> Table:
    """Where the time of one look goes, next to what the matrix products alone must take on this machine."""
    rows: list[dict[str, Cell]] = []
    for name, result in results.items():
        total = sum(result.profile.values())
        # The profiler's own cost is spread over everything.
        rows.append({"who": name, **{k: v / total * result.seconds for k, v in result.profile.items()}})
        rows[-1]["all"] = result.seconds
    rows.append({"who": "matrix products at full rate", "all": preset.flops(1) / gflops / 1e9})
    kinds = list(next(iter(results.values())).profile)
    return Table(
        title=f"Where the seconds of one look at {preset.side} px go",
        columns=(
            Column(key="who", title="tower"),
            Column(key="all", title="all", spec=".2f"),
            *(Column(key=kind, title=kind, spec=".2f") for kind in kinds),
        ),
        rows=tuple(rows),
    )


def resolution_table(rows: Sequence[dict[str, Cell]], low: Preset, high: Preset) -> Table:
    """Cost at the high resolution over the cost at the low one, for the same number of tokens."""
    by_preset = {row["preset"]: row for row in rows if row["looks"] == 1}
    result: list[dict[str, Cell]] = []
    for name in ("ours", "peer"):
        at_low, at_high = (by_preset[preset.name].get(f"{name}_seconds") for preset in (low, high))
        cpu_low, cpu_high = (by_preset[preset.name].get(f"{name}_cpu") for preset in (low, high))
        if isinstance(at_low, float) and isinstance(at_high, float):
            assert isinstance(cpu_low, float)
            assert isinstance(cpu_high, float)
            row: dict[str, Cell] = {"who": name, "low": at_low, "high": at_high, "ratio": at_high / at_low}
            result.append({**row, "cpu_ratio": cpu_high / cpu_low})
    columns = (
        Column(key="who", title="tower"),
        Column(key="low", title=f"{low.side} px: s", spec=".2f"),
        Column(key="high", title=f"{high.side} px: s", spec=".2f"),
        Column(key="ratio", title=f"{high.side}/{low.side}", spec=".2f"),
        Column(key="cpu_ratio", title="in CPU s", spec=".2f"),
    )
    return Table(
        title=f"Cost against resolution: {high.pass_budget} patches in one look",
        columns=columns,
        rows=tuple(result),
    )


def run_tower(run: TowerRun, *, command: str) -> Report:
    """Measure the tower.

    Raises:
        VilaHDError: a worker failed.
    """
    if run.peer_python is not None:
        require_peer(run.peer_python)
    preset = get_preset(run.preset)
    lower = get_preset(preset.lower) if preset.lower else None
    plan = [(preset, run.looks if lower is None or 1 in run.looks else (1, *run.looks))]
    if lower is not None:
        plan.append((lower, (1,)))
    dtype = getattr(torch, run.dtype)
    torch.set_num_threads(run.threads)
    facts: dict[str, Cell] = {**machine_facts(), "threads": run.threads, "dtype": run.dtype}
    gflops = gemm_gflops(dtype)
    facts["GEMM GFLOP/s"] = round(gflops, 1)
    rows: list[dict[str, Cell]] = []
    tables: list[Table] = []
    for each, looks in plan:
        with tempfile.TemporaryDirectory(prefix="vila-hd-speed-") as folder:
            save_random_tower(each, Path(folder), dtype=dtype, seed=run.seed)
            for count in looks:
                print(f"measuring {each.name}, looks {count} ...", file=sys.stderr)
                results = measure_row(run, each, Path(folder), looks=count)
                rows.append(table_row(each, count, results))
                if each is preset and count == 1:
                    tables.append(profile_table(preset, results, gflops))
    tables.insert(0, main_table(rows, with_peer=run.peer_python is not None))
    if lower is not None:
        tables.append(resolution_table(rows, lower, preset))
    return Report(command=command, facts=facts, tables=tuple(tables), notes=_notes(run))


def _notes(run: TowerRun) -> tuple[str, ...]:
    """How the numbers were taken."""
    notes = [
        f"Seconds: median of {run.runs} runs after one warm-up, alternating between the implementations; CPU "
        "s is the processor time of all threads, which other work on the machine changes little. "
        "Memory: resident set, each row and implementation in its own process, in 10^6 bytes; 'above model' "
        "leaves out what was resident with the model and its input loaded.",
    ]
    if run.peer_python is not None:
        notes.append(
            f"Peer: {PEER}, same random weights read from our saved folder, same input, guided by saliency, "
            "the last two layers returned (the setting of VILA; its default keeps all layers)."
        )
    return tuple(notes)
