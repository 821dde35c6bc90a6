"""Putting a server together, and running it."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ..errors import VilaHDError
from ..modeling_vila_hd import VilaHDForConditionalGeneration
from ..processing_vila_hd import VilaHDProcessor
from .app import build_app
from .connection import PatientConnection
from .engine import Engine, EngineSettings
from .guard import MAX_HEADERS, GuardRules
from .metrics import Metrics
from .pictures import PictureStore
from .service import ChatService, ServiceLimits
from .sources import PictureSources, SourceRules

KEY = "VILA_HD_API_KEY"
"""Environment variable of the key that opens the API. Command lines are visible to everybody on a machine."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_CONNECTIONS = 512


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Everything about a server but its model."""

    name: str
    """What requests call the model."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""

    keys: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    """Further names of the server, where it listens on this machine only."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    sources: SourceRules = field(default_factory=SourceRules)
    max_pixels: int = 100_000_000
    picture_cache: int = 512_000_000
    """Bytes of memory for pictures that may be asked about again."""

    max_body: int = 64_000_000
    grace: int = 30
    """Seconds for answers that are being written when the server is told to end."""

    workers: int = 1
    """Processes. ``engine`` and ``limits`` are those of each, ``picture_cache`` that of all together."""

    def guard(self) -> GuardRules:
        """The rules for requests."""
        local = self.host in LOOPBACK
        hosts = frozenset({*LOOPBACK, "[::1]", *self.hosts}) if local else frozenset()
        return GuardRules(keys=self.keys, hosts=hosts, max_body=self.max_body, max_bodies=8 * self.max_body)


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys of a file, one a line, or of the environment variable ``VILA_HD_API_KEY``.

    Raises:
        VilaHDError: the file cannot be read or holds none, or a key is too short to be one.
    """
    if file is None:
        given = os.environ.get(KEY, "").strip()
        keys: tuple[str, ...] = (given,) if given else ()
    else:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise VilaHDError(f"--api-key-file {file}: cannot be read ({error})") from error
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise VilaHDError(f"--api-key-file {file}: no key in it; write one a line")
    if any(len(key) < 8 for key in keys):
        raise VilaHDError("an API key of less than 8 characters is no secret: use a longer one")
    return keys


def build_service(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    settings: ServerSettings,
    metrics: Metrics,
) -> ChatService:
    """Engine, pictures and limits. The engine is not started yet."""
    engine = Engine(model, processor, settings.engine, metrics)
    alone = settings.workers == 1  # else other workers need the other cores
    store = PictureStore(
        processor,
        PictureSources(settings.sources),
        max_pixels=settings.max_pixels,
        cache_bytes=settings.picture_cache,
        threads=2 if alone else 1,
        look_ahead=engine.look_ahead if alone else None,
    )
    metrics.watch(engine, store)
    return ChatService(engine, store, name=settings.name, limits=settings.limits)


def build(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, settings: ServerSettings
) -> FastAPI:
    """The application for any ASGI server. ``run`` serves it with deadlines that those of others lack."""
    metrics = Metrics()
    service = build_service(model, processor, settings, metrics)
    return build_app(service, metrics, settings.guard())


class Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, *, may_say: Callable[[], bool] = lambda: True) -> None:
        super().__init__(config)
        self._may_say = may_say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._may_say():
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"listening on http://{host}:{port}/v1", flush=True)  # noqa: T201 - what scripts wait for

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGINT or SIGTERM; answers that are being written may end."""
        if threading.current_thread() is threading.main_thread():
            # uvicorn ends gracefully, then sends itself the signal again; ending as told is no failure.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        super().run(sockets)


def make_config(app: FastAPI | None, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn listens."""
    return uvicorn.Config(
        app or "",
        host=settings.host,
        port=settings.port,
        http=PatientConnection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.grace,
    )


@contextmanager
def named_port(settings: ServerSettings) -> Iterator[None]:
    """Turn what uvicorn does about a port that is taken into an error.

    Raises:
        VilaHDError: the port is taken.
    """
    try:
        yield
    except SystemExit as error:  # uvicorn has logged why
        raise VilaHDError(f"cannot listen on {settings.host}:{settings.port}: use another --port") from error


def run(model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, settings: ServerSettings) -> None:
    """Serve with one process until SIGINT or SIGTERM.

    Raises:
        VilaHDError: the port is taken.
    """
    with named_port(settings):
        Server(make_config(build(model, processor, settings), settings)).run()
