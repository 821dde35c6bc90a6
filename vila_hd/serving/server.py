"""Putting a server together, and running it."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    store = PictureStore(
        processor,
        PictureSources(settings.sources),
        max_pixels=settings.max_pixels,
        cache_bytes=settings.picture_cache,
        look_ahead=engine.look_ahead,
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


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"listening on http://{host}:{port}/v1", flush=True)  # noqa: T201 - what scripts wait for


def make_server(app: FastAPI, settings: ServerSettings) -> uvicorn.Server:
    """A server that is not running yet."""
    return _Server(
        uvicorn.Config(
            app,
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
    )


def run(app: FastAPI, settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM; answers that are being written may end.

    Raises:
        VilaHDError: the port is taken.
    """
    # uvicorn ends gracefully and then sends itself the signal again; having ended as told is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        make_server(app, settings).run()
    except SystemExit as error:  # uvicorn has logged why
        raise VilaHDError(f"cannot listen on {settings.host}:{settings.port}: use another --port") from error
