"""Throughput of the HTTP server against answering one request after the other, and how it bears load."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import psutil

from vila_hd.errors import VilaHDError

from ..report import Cell, Column, Report, Table, machine_facts
from .hostile import attack
from .load import NAME, SIZES, Outcome, Shown, draw_pictures, run_load


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to serve."""

    one_by_one: bool
    """A request is sent when the last one was answered: what handling one by one comes to."""

    kept: bool
    """The server keeps pictures, and few are asked about, many times; else all are new."""

    def options(self, workers: int) -> tuple[str, ...]:
        """Of ``vila-hd serve``, with ``workers`` where requests are answered together."""
        work = ("--max-batch", "1") if self.one_by_one else ("--workers", str(workers))
        return work if self.kept else (*work, "--picture-cache-mb", "0")


WAYS = {
    "one by one": Way(one_by_one=True, kept=False),
    "together": Way(one_by_one=False, kept=False),
    "one by one, pictures kept": Way(one_by_one=True, kept=True),
    "together, pictures kept": Way(one_by_one=False, kept=True),
}

COLUMNS = (
    Column(key="way", title="answered"),
    Column(key="pictures", title="pictures"),
    Column(key="answered", title="requests"),
    Column(key="rate", title="requests/s", spec=".2f"),
    Column(key="faster", title="faster", spec=".1f"),
    Column(key="cpu", title="CPU s/request", spec=".2f"),
    Column(key="p50", title="p50 s", spec=".2f"),
    Column(key="p95", title="p95 s", spec=".2f"),
    Column(key="failed", title="failed"),
    Column(key="refused", title="hostile, refused"),
    Column(key="harmful", title="hostile, not"),
    Column(key="warm_mb", title="MB, 2nd third", spec=".0f"),
    Column(key="end_mb", title="MB, last third", spec=".0f"),
)


@dataclass(frozen=True, kw_only=True)
class ServeRun:
    """One measurement."""

    model: str = "nano"
    """``nano``, a folder or a hub id."""

    ways: tuple[str, ...] = tuple(WAYS)
    clients: int = 8
    seconds: float = 30.0
    scenes: int = 2
    hostile: float = 0.0
    """Share of requests that mean harm."""

    workers: int = 2
    """Processes of a server that answers together."""

    threads: int = 1
    """Threads of torch in the server."""

    max_tokens: int = 32
    """Longest answer."""

    def __post_init__(self) -> None:
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown or not self.ways:
            raise VilaHDError(f"--ways {unknown}: use one or more of {', '.join(map(repr, WAYS))}")
        if (
            min(self.clients, self.scenes, self.workers, self.threads, self.max_tokens) < 1
            or self.seconds <= 0
            or not 0 <= self.hostile < 1
        ):
            raise VilaHDError(
                f"--clients {self.clients} --seconds {self.seconds:g} --scenes {self.scenes} "
                f"--hostile {self.hostile:g} --workers {self.workers} --threads {self.threads} --max-tokens "
                f"{self.max_tokens}: use 1 or more of each, above 0 s, a hostile share from 0 to below 1"
            )


@dataclass
class Memory:
    """Memory of a server while it serves."""

    server: psutil.Process
    seconds: float
    """That it serves; the first third counts as warming up."""

    thirds: tuple[list[float], list[float], list[float]] = field(default_factory=lambda: ([], [], []))
    """MB, a number per second of each third."""

    def look(self, seconds: float) -> None:
        """Measure now."""
        infos = [process.memory_full_info() for process in _processes(self.server)]
        # On Linux a share of what processes share (PSS), so that the sum counts that once; else without it.
        used = sum(getattr(info, "pss", info.uss) for info in infos)
        self.thirds[min(2, int(3 * seconds / self.seconds))].append(used / 1e6)


def _processes(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def run_serving(run: ServeRun, *, command: str) -> Report:
    """Measure all ways to serve, each with a server of its own.

    Raises:
        VilaHDError: a server does not start.
    """
    pictures = draw_pictures(run.scenes)
    rows: list[dict[str, Cell]] = []
    problems: list[str] = []
    for name in run.ways:
        way = WAYS[name]
        with _server(run, way) as (server, address):
            memory = Memory(server, run.seconds)
            _warm_up(address, pictures)
            before = _cpu_seconds(server)
            outcome = run_load(
                address, pictures, clients=1 if way.one_by_one else run.clients, seconds=run.seconds,
                new=not way.kept, hostile=run.hostile, attack=attack, watch=memory.look,
                max_tokens=run.max_tokens,
            )  # fmt: skip
            cpu = _cpu_seconds(server) - before
        rows.append({**_row(run, name, outcome, memory, rows), "cpu": cpu / max(len(outcome.seconds), 1)})
        problems += [f"{name}: {text}" for text in [*outcome.failures, *outcome.harmful]]
    facts: dict[str, Cell] = {
        **machine_facts(), "model": run.model, "clients": run.clients, "seconds": run.seconds,
        "workers, where together": run.workers, "threads of torch": run.threads,
        "longest answer": run.max_tokens, "hostile share": run.hostile,
    }  # fmt: skip
    sizes = ", ".join(f"{width} x {height}" for width, height in SIZES)
    note = (
        f"Scenes of {sizes} pixels, a question each, budgets auto, 0, 72 and 144 mixed. 'One by one' sends a "
        "request when the last one was answered, to one process. 'New' pictures were never seen by the "
        "server; 'again': few pictures, many questions. MB: memory of all processes of the server, medians "
        "over a third of the time each; in the first third it warms up."
    )
    table = Table(columns=COLUMNS, rows=tuple(rows))
    incomplete = f"{len(problems)} requests went wrong, the first: {problems[0]}" if problems else ""
    return Report(command=command, facts=facts, tables=(table,), notes=(note,), incomplete=incomplete)


def _warm_up(address: tuple[str, int], pictures: list[Shown]) -> None:
    """A few requests that are not counted: the first ones of a process take longer."""
    run_load(
        address, pictures, clients=4, seconds=2.0, new=False, hostile=0.0, attack=attack,
        watch=lambda seconds: None,
    )  # fmt: skip


def _row(
    run: ServeRun, name: str, outcome: Outcome, memory: Memory, before: list[dict[str, Cell]]
) -> dict[str, Cell]:
    rate = len(outcome.seconds) / run.seconds
    pictures = "again" if WAYS[name].kept else "new"
    first = next((row["rate"] for row in before if row["pictures"] == pictures), None)
    return {
        "way": name,
        "pictures": pictures,
        "answered": len(outcome.seconds),
        "rate": rate,
        "faster": rate / first if isinstance(first, float) and first else None,
        "p50": _percentile(outcome.seconds, 50),
        "p95": _percentile(outcome.seconds, 95),
        "failed": len(outcome.failures),
        "refused": outcome.refused,
        "harmful": len(outcome.harmful),
        "warm_mb": _percentile(memory.thirds[1], 50),
        "end_mb": _percentile(memory.thirds[2], 50),
    }


def _cpu_seconds(server: psutil.Process) -> float:
    """Seconds of all cores that a server has used; on a busy machine they tell more than the clock."""
    times = [process.cpu_times() for process in _processes(server)]
    return sum(time.user + time.system for time in times)


def _percentile(values: list[float], share: float) -> float | None:
    return float(np.percentile(values, share)) if values else None


@contextmanager
def _server(run: ServeRun, way: Way) -> Iterator[tuple[psutil.Process, tuple[str, int]]]:
    """``vila-hd serve`` on a free port of this machine."""
    words = [sys.executable, "-m", "vila_hd.cli", "serve", "--port", "0", "--model", run.model]
    words += ["--served-name", NAME, *way.options(run.workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads)}
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would stop the server when full
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert process.stdout is not None
        try:
            found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            if found is None:
                raise VilaHDError(f"the server did not start: {_end_of(log)}")
            yield psutil.Process(process.pid), (found[1], int(found[2]))
        except psutil.NoSuchProcess as error:
            raise VilaHDError(f"the server ended while it was measured: {_end_of(log)}") from error
        finally:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _end_of(log: IO[str]) -> str:
    log.seek(0)
    return log.read().strip()[-300:]
