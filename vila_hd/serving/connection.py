"""An HTTP connection that waits for ever neither for headers nor for a client that reads nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""How long a client may take to send the headers of a request."""

READ_SECONDS = 30.0
"""How long a client may leave an answer unread once buffers are full."""


class PatientConnection(H11Protocol):
    """uvicorn's own connection with two deadlines that it lacks."""

    header_seconds = HEADER_SECONDS
    read_seconds = READ_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; it has so long to say what it wants."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._header_timer = _stop(self._header_timer)
        self._read_timer = _stop(self._read_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_timer = _stop(self._header_timer)
        elif self._header_timer is None:  # the next request of a connection that stayed open
            self._await_headers()

    def pause_writing(self) -> None:
        """The buffers are full."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._read_timer = _stop(self._read_timer)

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No timer any more."""
    if timer is not None:
        timer.cancel()
    return None
