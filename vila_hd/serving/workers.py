"""Several processes that answer on one port with the same weights.

On a CPU one process keeps hardly more than one core busy with a small model, whatever its threads.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType

import torch
from torch.multiprocessing import ProcessContext, ProcessExitedException, start_processes

from ..errors import VilaHDError
from ..modeling_vila_hd import VilaHDForConditionalGeneration
from ..processing_vila_hd import VilaHDProcessor
from ..utils.logging import configure_for_terminal
from .app import build_app
from .metrics import TEAM_FOLDER, Metrics
from .server import Server, ServerSettings, build_service, make_config, named_port

SHARED_MEMORY = Path("/dev/shm")


def run_workers(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, settings: ServerSettings
) -> None:
    """Serve with ``settings.workers`` processes until SIGINT or SIGTERM. When one dies, all end.

    Raises:
        VilaHDError: the model is not on a CPU or does not fit into shared memory, the port is taken, or a
            worker has died.
    """
    check_room(model, settings.workers)
    _allow_more_files()
    threads = max(1, torch.get_num_threads() // settings.workers)
    own = replace(settings, picture_cache=settings.picture_cache // settings.workers)
    ready = get_context("spawn").Barrier(settings.workers)
    with tempfile.TemporaryDirectory(prefix="vila-hd-metrics-") as folder:
        with named_port(settings):
            listening = make_config(None, settings).bind_socket()
        given = (model, processor, own, listening, ready, threads)
        os.environ[TEAM_FOLDER] = folder  # prometheus_client reads it where a worker imports it
        with listening:
            context = start_processes(_work, given, settings.workers, join=False, daemon=True)
        del os.environ[TEAM_FOLDER]
        _wait(context)


def check_room(model: VilaHDForConditionalGeneration, workers: int) -> None:
    """Whether processes can share the weights of ``model``.

    Raises:
        VilaHDError: they cannot.
    """
    if model.device.type != "cpu":
        raise VilaHDError(
            f"--workers {workers} with a model on {model.device}: workers share a CPU; start one server per "
            "accelerator, each on its own --port"
        )
    if SHARED_MEMORY.exists():  # other systems share memory in other ways
        storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        needed = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        free = shutil.disk_usage(SHARED_MEMORY).free
        if needed > free:
            raise VilaHDError(
                f"--workers {workers}: the weights ({needed / 1e6:,.0f} MB) do not fit into {SHARED_MEMORY} "
                f"({free / 1e6:,.0f} MB free): make it larger (docker run --shm-size), or use --workers 1"
            )


def _allow_more_files() -> None:
    """Each tensor that processes share is an open file there, and so is each connection."""
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _wait(context: ProcessContext) -> None:
    """Until all workers have ended."""

    def end(number: int = 0, frame: FrameType | None = None) -> None:
        for process in context.processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        raise VilaHDError(f"a worker is gone ({error}), so the server ended: start it again") from error
    finally:  # after Ctrl-C, answers that are being written may end
        end()
        for process in context.processes:
            process.join()


def _work(
    rank: int,
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    settings: ServerSettings,
    listening: socket.socket,
    ready: Barrier,
    threads: int,
) -> None:
    """The life of one worker."""
    configure_for_terminal()
    torch.set_num_threads(threads)
    metrics = Metrics(of_team=True)
    service = build_service(model, processor, settings, metrics)

    def is_first() -> bool:
        ready.wait()
        return rank == 0

    server = Server(make_config(build_app(service, metrics, settings.guard()), settings), may_say=is_first)

    async def every_second() -> None:
        metrics.look()
        server.should_exit |= service.engine.broken is not None

    server.config.timeout_notify, server.config.callback_notify = 1, every_second
    server.run([listening])
    if service.engine.broken is not None:
        sys.exit(1)
