"""The HTTP API: routes, streams and errors."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from ..errors import VilaHDError
from ..utils.logging import get_logger
from ..version import __version__
from .engine import ClosingError, FullError
from .errors import ApiError, as_api_error
from .guard import Guard, GuardRules
from .mcp_tool import build_mcp
from .metrics import Metrics
from .protocol import ChatRequest, Reply
from .questions import ChosenToken, Event, Failed, Finished, Piece
from .service import ChatService, ClientGoneError

logger = get_logger(__name__)

CLIENT_GONE = 499
"""Status in logs and metrics when nobody waits for the answer any more; nobody receives it."""


class EventStream(Response):
    """Server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], resources: AsyncExitStack) -> None:
        """Prepare.

        Args:
            lines: what the events say.
            resources: closed at the end, and when the client leaves before.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._lines, self._resources = lines, resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        async with self._resources:
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(start)
            with suppress(ClientGoneError):  # nobody is there to be told
                async for line in self._lines:
                    await send(_body(f"data: {line}\n\n", more=True))
                await send(_body("", more=False))


def _body(text: str, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


def build_app(service: ChatService, metrics: Metrics, rules: GuardRules) -> FastAPI:
    """The application. It starts the engine, and ends it when the server ends."""
    mcp = build_mcp(service)
    mcp_app = mcp.streamable_http_app(
        stateless_http=True,
        json_response=True,
        max_request_body_size=rules.max_body,
        # The guard has checked the host already.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            async with mcp.session_manager.run():
                yield
        finally:
            service.engine.close()
            service.store.close()

    # The pages that FastAPI makes load scripts from elsewhere; the schema itself is at /openapi.json.
    app = FastAPI(title="VILA-HD", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, rules=rules, answered=metrics.answered)
    _add_error_handlers(app)
    _add_routes(app, service, metrics)
    app.router.routes.extend(mcp_app.routes)
    return app


def _add_routes(app: FastAPI, service: ChatService, metrics: Metrics) -> None:
    schema = {"requestBody": {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}}

    @app.post("/v1/chat/completions", openapi_extra=schema)
    async def chat(request: Request) -> Response:
        return await _chat(service, await _read_request(request), request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise ApiError(404, f"model {name!r:.80} is not served here", code="model_not_found")
        return _model(service)

    @app.get("/health")
    async def health() -> Response:
        broken = service.engine.broken is not None
        return JSONResponse({"status": "broken" if broken else "ok"}, 503 if broken else 200)

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(service: ChatService) -> dict[str, Any]:
    config = service.engine.model.config
    return {
        "id": service.name,
        "object": "model",
        "created": 0,
        "owned_by": "vila-hd",
        "max_model_len": getattr(config.text_config, "max_position_embeddings", None),
        "scales": [config.vision_config.ps3_scales[0], *config.high_scales],
    }


async def _read_request(request: Request) -> ChatRequest:
    # A form or a text could be sent by any page in a browser without asking; JSON cannot.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content type {kind!r:.80}: send application/json")
    try:
        return ChatRequest.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or None
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise ApiError(400, message[:500], param=place) from None


async def _chat(service: ChatService, asked: ChatRequest, request: Request) -> Response:
    async with AsyncExitStack() as stack:
        question, events = await stack.enter_async_context(service.ask(asked, request.is_disconnected))
        reply = Reply(service.name, question.pictures)
        # The first event is waited for before anything is sent, so that errors have their own status.
        first = await anext(events)
        if isinstance(first, Failed):
            raise first.error
        if not asked.stream:
            return await _collect(reply, first, events)
        # The place in the engine is given back when the stream has ended, not here.
        return EventStream(_lines(reply, asked, first, events), stack.pop_all())


async def _collect(reply: Reply, first: Event, events: AsyncIterator[Event]) -> Response:
    """The answer in one piece."""
    text: list[str] = []
    tokens: list[ChosenToken] = []
    async for event in _with_first(first, events):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            return JSONResponse(reply.whole("".join(text), tokens or None, event))
        text.append(event.text)
        tokens += event.tokens
    raise AssertionError("an answer without an end")


async def _lines(
    reply: Reply, asked: ChatRequest, first: Event, events: AsyncIterator[Event]
) -> AsyncIterator[str]:
    """The answer as the lines of a stream."""
    yield json.dumps(reply.chunk({"role": "assistant", "content": ""}))
    async for event in _with_first(first, events):
        if isinstance(event, Piece):
            yield json.dumps(reply.chunk({"content": event.text}, tokens=event.tokens))
        elif isinstance(event, Failed):
            log_error(event.error)
            yield json.dumps(as_api_error(event.error).body())
        else:
            yield json.dumps(reply.chunk({}, end=event))
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield json.dumps(reply.usage_chunk(event))
    yield "[DONE]"


async def _with_first(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    if isinstance(first, Piece):
        async for event in rest:
            yield event


def _add_error_handlers(app: FastAPI) -> None:
    async def answer_error(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientGoneError):
            return Response(status_code=CLIENT_GONE)
        if isinstance(error, HTTPException):
            known = ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        else:
            known = as_api_error(error)
            log_error(error)
        return JSONResponse(known.body(), known.status, known.headers)

    for kind in (ApiError, VilaHDError, FullError, ClosingError, ClientGoneError, HTTPException, MemoryError):
        app.add_exception_handler(kind, answer_error)
    # This one also raises the error again, for the log.
    app.add_exception_handler(Exception, answer_error)


def log_error(error: Exception) -> None:
    """A line for what the server, not the client, is to blame for."""
    if as_api_error(error).status == 500:
        logger.error("%s: %s", type(error).__name__, error, exc_info=error)
