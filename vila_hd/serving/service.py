"""From a chat request to the events of its answer: what the HTTP API and the MCP tool share."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from ..errors import VilaHDError
from ..generation import MAX_NEW_TOKENS
from ..options import HighResOptions
from ..supervision import ConversationEncoder
from .engine import Engine
from .errors import ApiError
from .pictures import PictureStore
from .protocol import ChatRequest
from .questions import Event, Failed, Finished, Picture, Question, Sampling

MAX_TEXT = 400_000
"""Characters of text in a request; what a context of 128 K tokens holds."""

GONE_CHECK = 0.2
"""Seconds between two looks at whether a client is still there."""


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """What one request may ask for."""

    max_new_tokens: int = 1024
    max_pictures: int = 16


class ChatService:
    """Answers chat requests with one engine."""

    def __init__(
        self, engine: Engine, store: PictureStore, *, name: str, limits: ServiceLimits | None = None
    ) -> None:
        self.engine, self.store, self.name = engine, store, name
        self.limits = limits or ServiceLimits()
        self._encoder = ConversationEncoder(engine.processor)

    @asynccontextmanager
    async def ask(
        self, request: ChatRequest, is_gone: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[tuple[Question, AsyncIterator[Event]]]:
        """The question, and the events of its answer; leaving the block early cancels it.

        Args:
            request: what is asked.
            is_gone: whether nobody waits any more; asked now and then.

        Raises:
            FullError: too many requests at once.
            VilaHDError: the request is to blame.
        """
        self._check(request)
        with self.engine.place() as job:
            question = await self._prepare(request)
            events: asyncio.Queue[Event] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def sink(event: Event) -> None:
                if not loop.is_closed():  # else the server is gone, and the engine about to end
                    loop.call_soon_threadsafe(events.put_nowait, event)

            self.engine.submit(job, question, sink)
            yield question, _events(events, is_gone)

    def _check(self, request: ChatRequest) -> None:
        """What can be told before anything is read."""
        if request.model != self.name:
            raise ApiError(
                404,
                f"model {request.model!r:.80} is not served here: use {self.name!r}",
                param="model",
                code="model_not_found",
            )
        if len(request.addresses) > self.limits.max_pictures:
            raise VilaHDError(
                f"{len(request.addresses)} pictures, but at most {self.limits.max_pictures} are read"
            )
        if (length := sum(map(len, _texts(request)))) > MAX_TEXT:
            raise VilaHDError(f"{length:,} characters of text, but at most {MAX_TEXT:,} are read: shorten it")

    async def _prepare(self, request: ChatRequest) -> Question:
        sampling = self._sampling(request)
        addresses = request.addresses
        ids = await asyncio.to_thread(self._encoder.prompt, request.chat())
        options = self._options(request, len(addresses))
        self._check_room(len(ids))
        pictures = tuple([await self.store.get(address, where) for where, address in addresses])
        return Question(ids, pictures, _framed(options, pictures), sampling, request.high_res.explain)

    def _options(self, request: ChatRequest, num_pictures: int) -> HighResOptions:
        wanted = request.high_res
        if not num_pictures and wanted.regions:
            raise VilaHDError("high_res.regions without a picture: send one, or leave them out")
        if wanted.regions and (given := len(wanted.boxes(num_pictures))) != num_pictures:
            raise VilaHDError(
                f"high_res.regions has {given} list(s) of boxes for {num_pictures} picture(s): one each"
            )
        return wanted.options(num_pictures, self.engine.model.config.default_guide)

    def _check_room(self, used: int) -> None:
        limit = getattr(self.engine.model.config.text_config, "max_position_embeddings", None)
        if limit is not None and used >= limit:
            raise ApiError(
                400,
                f"the prompt has {used} tokens without high-resolution ones, but the model reads {limit}: "
                "shorten it or send fewer pictures",
                param="messages",
                code="context_length_exceeded",
            )

    def _sampling(self, request: ChatRequest) -> Sampling:
        wanted = request.max_completion_tokens or request.max_tokens
        if wanted is not None and wanted > self.limits.max_new_tokens:
            raise ApiError(
                400,
                f"{wanted} tokens asked for, but answers here have at most {self.limits.max_new_tokens}",
                param="max_completion_tokens" if request.max_completion_tokens else "max_tokens",
            )
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(400, "top_logprobs without logprobs: set logprobs to true", param="top_logprobs")
        form = request.response_format
        return Sampling(
            max_new_tokens=wanted or min(MAX_NEW_TOKENS, self.limits.max_new_tokens),
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            stop=request.stops,
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            json_schema=None if form is None else form.schema_of_answer(),
        )


async def _events(
    events: "asyncio.Queue[Event]", is_gone: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Event]:
    """Events up to the last one.

    Raises:
        ClientGoneError: nobody waits any more.
    """
    checked = time.monotonic()
    while True:
        # Also while events come all the time: sending to a client that has left raises nothing.
        if time.monotonic() - checked >= GONE_CHECK:
            if await is_gone():
                raise ClientGoneError
            checked = time.monotonic()
        try:
            async with asyncio.timeout(GONE_CHECK):
                event = await events.get()
        except TimeoutError:
            continue
        yield event
        if isinstance(event, Finished | Failed):
            return


def _texts(request: ChatRequest) -> list[str]:
    return [
        text
        for message in request.chat()
        for text in (
            [message["content"]]
            if isinstance(message["content"], str)
            else [item["text"] for item in message["content"] if item["type"] == "text"]
        )
    ]


def _framed(options: HighResOptions, pictures: tuple[Picture, ...]) -> HighResOptions:
    """``options`` with boxes in pixels of the pictures' frames.

    Raises:
        VilaHDError: a box leaves its picture.
    """
    if not options.regions:
        return options
    placed = []
    for boxes, picture in zip(options.regions, pictures, strict=True):
        (width, height), (x, y) = picture.size, picture.offset
        for box in boxes:
            if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
                raise VilaHDError(
                    f"region {list(box)} leaves the picture of {width}x{height} pixels: keep it inside"
                )
        placed.append(tuple((x1 + x, y1 + y, x2 + x, y2 + y) for x1, y1, x2, y2 in boxes))
    return replace(options, regions=tuple(placed))
