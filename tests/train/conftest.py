"""Several ranks in one test: forked processes that talk over gloo and can never hang the test run."""

import faulthandler
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Rank:
    """How one process of ``run_ranks`` ended."""

    status: int
    """Exit status; negative: the signal that killed it."""

    value: Any
    """What its function returned; None when it did not."""

    output: str
    """Its standard output and error."""


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, rank: int) -> None:
    """Body of a forked rank. Never returns."""
    status = 1
    try:
        output = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        faulthandler.enable(file=sys.stderr)
        faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
        import torch

        torch.set_num_threads(1)
        value = function(*arguments)
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(value))
        status = 0
    except BaseException:  # noqa: BLE001  # a forked child must not run the parent's test session
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(children: dict[int, int], deadline: float) -> dict[int, int]:
    """Exit status by rank of those that ended in time; a failing rank gives the others 10 more seconds."""
    statuses: dict[int, int] = {}
    while len(statuses) < len(children) and time.monotonic() < deadline:
        for rank, pid in children.items():
            if rank not in statuses and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[rank] = os.waitstatus_to_exitcode(ended[1])
                if statuses[rank]:
                    deadline = min(deadline, time.monotonic() + 10)
        time.sleep(0.02)
    return statuses


@pytest.fixture
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Rank]]:
    """``run(function, *arguments, ranks=2, timeout=120)``: the function in each of several forked ranks.

    Ranks that are left at the timeout print where they are and are killed: then the test fails. Ranks whose
    partner died are killed after a moment, too, but that is for the test to judge.
    """

    def run(
        function: Callable[..., Any], *arguments: Any, ranks: int = 2, timeout: float = 120
    ) -> list[Rank]:
        folder = tmp_path_factory.mktemp("ranks")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children: dict[int, int] = {}
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), OMP_NUM_THREADS="1",
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_WORLD_SIZE=str(ranks),
                )  # fmt: skip
                _child(function, arguments, folder, rank)
            children[rank] = pid
        started = time.monotonic()
        statuses = _wait(children, started + timeout)
        late = time.monotonic() - started >= timeout
        hanging = sorted(set(children) - set(statuses))
        for rank in hanging:
            os.kill(children[rank], signal.SIGUSR2)
            time.sleep(0.3)
            os.kill(children[rank], signal.SIGKILL)
            statuses[rank] = os.waitstatus_to_exitcode(os.waitpid(children[rank], 0)[1])
        results = []
        for rank in range(ranks):
            stored = folder / f"{rank}.pickle"
            value = pickle.loads(stored.read_bytes()) if stored.exists() else None
            results.append(Rank(statuses[rank], value, (folder / f"{rank}.log").read_text(errors="replace")))
        if hanging and late:
            logs = "\n".join(f"--- rank {rank}\n{results[rank].output[-3000:]}" for rank in range(ranks))
            pytest.fail(f"ranks {hanging} hang after {timeout} s\n{logs}")
        return results

    return run


@pytest.fixture
def values_of() -> Callable[[list[Rank]], list[Any]]:
    """The values of ranks that must all have ended well."""

    def values(results: list[Rank]) -> list[Any]:
        for rank, result in enumerate(results):
            assert result.status == 0, f"rank {rank}: status {result.status}\n{result.output[-6000:]}"
        return [result.value for result in results]

    return values


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-modal model with its processor, as a stage starts from it."""
    from vila_hd.testing import tiny_config, tiny_model, tiny_processor

    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config(vision={"max_select_num": 12}, text={"max_position_embeddings": 512})
    tiny_model(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_stage(tiny_folder: Path) -> Callable[..., Any]:
    """``stage(run_folder, **values)``: a StageConfig of a few cheap steps on the tiny model."""
    from train.config import StageConfig
    from vila_hd.utils.config import from_dict, merge

    def stage(run_folder: Path, *, zero: int = 0, **values: Any) -> StageConfig:
        raw: dict[str, Any] = {
            "name": "tiny",
            "stage": "sft",
            "model": str(tiny_folder),
            "trainable": ["selector", "projector", "llm"],
            "output_dir": str(run_folder),
            "data": {"size": [960, 540], "num_objects": 2, "items_per_picture": 1},
            "optim": {"lr": 1e-2, "eps": 1e-2},
            "max_steps": 4,
            "global_batch_size": 2,
            "micro_batch_size": 1,
            "deepspeed": str(ROOT / f"configs/deepspeed/zero{zero}.json"),
            "precision": "fp32",
            "logging_steps": 1,
        }
        return from_dict(StageConfig, merge(raw, values))

    return stage
