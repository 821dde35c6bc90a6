"""What every request passes before a route sees it: host, key, size and speed of its body."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

MAX_HEADERS = 16_384
"""Bytes of all headers of a request. h11 counts only while a request is incomplete."""

OPEN_PATHS = ("/health",)
"""Paths that need no key."""

FIRST_SECONDS = 10.0
"""How long a body may take before its speed counts."""

SLOWEST = 100_000
"""Bytes per second below which a body is given up."""


@dataclass(frozen=True, kw_only=True)
class GuardRules:
    """Who may ask, and how much."""

    keys: tuple[str, ...] = ()
    """Any of them opens the API; none: it is open."""

    hosts: frozenset[str] = frozenset()
    """Names that requests must be addressed to; empty: any. A page in a browser that lets its own name point
    to this machine (DNS rebinding) is stopped by it."""

    max_body: int = 64_000_000
    """Bytes of one request."""

    max_bodies: int = 512_000_000
    """Bytes of all requests that are held at one time."""


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, rules: GuardRules, answered: Callable[[str, int], None]) -> None:
        """Put a guard before an application.

        Args:
            app: the application.
            rules: what may pass.
            answered: is told path and status of every answer.
        """
        self._app, self._rules, self._answered = app, rules, answered
        self._keys = [_digest(key.encode()) for key in rules.keys]
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(scope["path"], message["status"])
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, body.receive, counted)
        except ApiError as error:  # raised by the checks above, never by a route: those have a handler
            await refuse(error, counted)
        finally:
            self._held -= body.size

    def _check(self, path: str, headers: Headers) -> None:
        rules = self._rules
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            raise ApiError(431, f"more than {MAX_HEADERS:,} bytes of headers")
        if rules.hosts and _host(headers.get("host", "")) not in rules.hosts:
            raise ApiError(400, f"host {headers.get('host', '')!r:.80} is not the name of this server")
        if self._keys and path not in OPEN_PATHS:
            self._check_key(headers.get("authorization", ""))
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > rules.max_body:
            raise _too_large(rules.max_body)

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode())
        # All keys are compared, in a time that does not depend on them.
        fits = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(fits):
            raise ApiError(
                401,
                "missing or wrong API key: send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def hold(self, num_bytes: int, size: int) -> None:
        """Count bytes of a body that has ``size`` with them.

        Raises:
            ApiError: that is too much.
        """
        self._held += num_bytes
        if size > self._rules.max_body:
            raise _too_large(self._rules.max_body)
        if self._held > self._rules.max_bodies:
            raise ApiError(
                429, "too many large requests at once", headers={"Retry-After": "2", "Connection": "close"}
            )

    def seconds_for(self, size: int) -> float:
        """How long the first ``size`` bytes of a body may take."""
        return FIRST_SECONDS + size / SLOWEST


class _Body:
    """The body of one request while it arrives."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._started = time.monotonic()
        self._complete = False
        self.size = 0

    async def receive(self) -> Message:
        """The next message of the client."""
        if self._complete:  # waits for the client to leave: that may take as long as the answer
            return await self._receive()
        left = self._started + self._guard.seconds_for(self.size) - time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the request arrives too slowly", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            num_bytes = len(message.get("body", b""))
            self.size += num_bytes
            self._complete = not message.get("more_body", False)
            self._guard.hold(num_bytes, self.size)
        return message


async def refuse(error: ApiError, send: Send) -> None:
    """Answer with an error, and close the connection: the rest of the body is not wanted."""
    content = json.dumps(error.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    pairs: Sequence[tuple[bytes, bytes]] = [
        (name.lower().encode(), value.encode()) for name, value in {**headers, **error.headers}.items()
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def _digest(key: bytes) -> bytes:
    """Equally long for all keys, so that comparing tells nothing about their length."""
    return hashlib.sha256(key).digest()


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"the request is larger than {limit:,} bytes", code="too_large", headers={"Connection": "close"}
    )
