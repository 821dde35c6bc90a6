"""The JSON of the API: what is read, strictly, and what is answered."""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..lens.boxes import look_boxes
from ..options import HighResOptions, Pruning
from .questions import ChosenToken, Finished, Picture, TokenChance

Json = dict[str, Any]


class _Strict(BaseModel):
    """Unknown names and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """Text."""

    type: Literal["text"]
    text: str


class ImageAddress(_Strict):
    """Where a picture is."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    """Read and ignored: ``high_res`` says how closely to look."""


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class TextMessage(_Strict):
    """What the system or the model said."""

    role: Literal["system", "developer", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=1000)]
    name: str | None = None


class UserMessage(_Strict):
    """What a person said and showed."""

    role: Literal["user"]
    content: str | Annotated[list[Part], Field(max_length=1000)]
    name: str | None = None


Message = Annotated[TextMessage | UserMessage, Field(discriminator="role")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]


class HighRes(_Strict):
    """How closely to look; ``extra_body={"high_res": {...}}`` with the client of OpenAI."""

    budget: int | Literal["auto", "all"] = "auto"
    guided_by: Literal["prompt", "saliency", "regions"] | None = None
    """None: what the model was trained for, or ``regions`` where there are some."""

    regions: list[list[Box]] | list[Box] = Field(default_factory=list)
    """Boxes ``[x1, y1, x2, y2]`` in pixels: a list for every picture, or the boxes of the only one."""

    per_scale: list[int] | None = None
    max_scale: int | None = None
    smooth: bool = False
    pruning: str | None = None
    """``METHOD:KEEP``, such as ``visionzip:0.25``; None: the checkpoint's own way."""

    explain: bool = False
    """Whether the answer says where was looked and what it cost."""

    def boxes(self, num_pictures: int) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """One list per picture."""
        given: Any = self.regions
        if num_pictures == 1 and given and given[0] and not isinstance(given[0][0], list):
            given = [given]
        return tuple(tuple(tuple(box) for box in boxes) for boxes in given)

    def options(self, num_pictures: int, default_guide: Literal["prompt", "saliency"]) -> HighResOptions:
        """The same for the library.

        Raises:
            VilaHDError: values that do not fit together.
        """
        regions: Any = self.boxes(num_pictures)
        return HighResOptions(
            budget=self.budget,
            guided_by=self.guided_by or ("regions" if regions else default_guide),
            regions=regions,
            per_scale=None if self.per_scale is None else tuple(self.per_scale),
            max_scale=self.max_scale,
            smooth=self.smooth,
            pruning=None if self.pruning is None else Pruning.parse(self.pruning),
        )


class StreamOptions(_Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Read and ignored."""


class JsonSchema(_Strict):
    """A schema with its name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=lambda: {"type": "object"}, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """What an answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """None: any text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema_


class ChatRequest(_Strict):
    """Body of ``/v1/chat/completions``."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: Number | None = Field(default=None, ge=0, le=2)
    """None: 0, the likeliest token always, as everywhere in VILA-HD (at OpenAI: 1)."""

    top_p: Number | None = Field(default=None, gt=0, le=1)
    n: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    high_res: HighRes = Field(default_factory=HighRes)
    frequency_penalty: Number | None = 0
    presence_penalty: Number | None = 0
    user: str | None = None
    """This and the following are read and ignored."""

    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("only n=1 is answered: send the request several times, with different seeds")
        return value

    @field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("penalties are not supported: leave them out, or at 0")
        return value

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 4 or any(not 1 <= len(stop) <= 200 for stop in stops):
            raise ValueError("use at most 4 texts of 1 to 200 characters")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """``(where in the request, address)`` of every picture, in order."""
        return [
            (f"messages[{i}].content[{j}]", part.image_url.url)
            for i, message in enumerate(self.messages)
            if not isinstance(message.content, str)
            for j, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]

    def chat(self) -> list[Json]:
        """The messages as chat templates read them."""
        turns: list[Json] = []
        for message in self.messages:
            role = "system" if message.role == "developer" else message.role
            content: Any = message.content
            if not isinstance(content, str):
                content = [
                    {"type": "image"} if isinstance(p, ImagePart) else {"type": "text", "text": p.text}
                    for p in content
                ]
            turns.append({"role": role, "content": content})
        return turns


class Reply:
    """Writes the objects of one answer."""

    def __init__(self, model: str, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures
        self._shared = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, tokens: list[ChosenToken] | None, end: Finished) -> Json:
        """The answer in one object."""
        choice: Json = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": _logprobs(tokens),
            "finish_reason": end.reason,
        }
        usage = {"usage": usage_of(end)}
        return {
            **self._shared,
            "object": "chat.completion",
            "choices": [choice],
            **usage,
            **self._explain(end),
        }

    def chunk(
        self, delta: Json, *, tokens: tuple[ChosenToken, ...] = (), end: Finished | None = None
    ) -> Json:
        """A part of a stream."""
        choice: Json = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(list(tokens) or None),
            "finish_reason": None if end is None else end.reason,
        }
        extra = {} if end is None else self._explain(end)
        return {**self._shared, "object": "chat.completion.chunk", "choices": [choice], **extra}

    def _explain(self, end: Finished) -> Json:
        return {} if end.receipt is None else {"high_res": explain(end, self._pictures)}

    def usage_chunk(self, end: Finished) -> Json:
        """The last part of a stream that tells its usage."""
        return {**self._shared, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(end)}


def usage_of(end: Finished) -> Json:
    """Tokens of an answer; ``image_tokens`` are the visual ones among those of the prompt."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.new_tokens,
        "total_tokens": end.prompt_tokens + end.new_tokens,
        "prompt_tokens_details": {"image_tokens": end.visual_tokens, "cached_tokens": 0},
    }


def explain(end: Finished, pictures: Sequence[Picture]) -> Json:
    """The receipt of an answer, and the boxes of every picture in pixels of the original."""
    assert end.receipt is not None
    boxes = [
        look_boxes(look, size=picture.size, offset=picture.offset)
        for look, picture in zip(end.looks, pictures, strict=True)
    ]
    return {"receipt": end.receipt.to_dict(), "boxes": [[box.to_dict() for box in part] for part in boxes]}


def _logprobs(tokens: list[ChosenToken] | None) -> Json | None:
    if tokens is None:
        return None
    return {
        "content": [{**_chance(token), "top_logprobs": list(map(_chance, token.top))} for token in tokens],
        "refusal": None,
    }


def _chance(token: TokenChance) -> Json:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}
