"""Words for a crop of a picture: by a model in this process, or by a server that speaks the OpenAI API."""

import base64
import email.utils
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import get_logger
from vila_hd.utils.text import one_line

from .rows import PictureError

logger = get_logger(__name__)

MAX_PIXELS = 256 * 28 * 28
"""Pixels of a picture that the model is shown (paper)."""

REGION_PROMPT = (
    "The first image is a whole picture, the second one a crop of it. Describe what the crop shows in one or "
    "two sentences: its objects, any text, and their attributes such as colour, shape and how they relate. "
    "Describe only the foreground of the crop, not the rest of the picture, and do not mention that text is "
    "absent. Begin with the description itself."
)
GLOBAL_PROMPT = (
    "Describe this picture in two or three sentences: the place, the main objects and how they are arranged. "
    "Begin with the description itself."
)
QUESTION_PROMPT = (
    "Below is a caption of one part of a picture. Write one question about the picture that this part "
    "answers, without giving the answer away. Say what is asked about clearly enough that a person would "
    "know where to look. Write the question alone.\n\nCaption: {caption}"
)
"""Text only; the braces are filled in."""

RETRY_STATUS = (408, 409, 429, 500, 502, 503, 504)
"""HTTP answers after which the same request may succeed."""


class Captioner(Protocol):
    """Pictures and a prompt -> a caption."""

    def __call__(self, pictures: Sequence[Image.Image], prompt: str) -> str:
        """The caption, without white space around it.

        Raises:
            PictureError: there is none for these pictures.
            VilaHDError: there will not be any.
        """
        ...


def limit_pixels(picture: Image.Image, most: int = MAX_PIXELS) -> Image.Image:
    """``picture`` with at most ``most`` pixels."""
    factor = (most / (picture.width * picture.height)) ** 0.5
    if factor >= 1:
        return picture
    size = max(1, int(picture.width * factor)), max(1, int(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


class PipelineCaptioner:
    """Any image-text-to-text model of transformers."""

    def __init__(
        self, model: str, *, device: str = "cpu", dtype: str = "auto", max_new_tokens: int = 128
    ) -> None:
        """Load ``model``, a folder or hub id.

        Raises:
            VilaHDError: it is not to be had, or is no such model.
        """
        from transformers import pipeline

        self.max_new_tokens = max_new_tokens
        try:
            self.pipeline = pipeline("image-text-to-text", model=model, device=device, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            lines = str(error).strip().splitlines()
            raise VilaHDError(f"--model {model}: {lines[0] if lines else type(error).__name__}") from error

    def __call__(self, pictures: Sequence[Image.Image], prompt: str) -> str:
        """The caption; greedy, so that a second run says the same."""
        content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        found = self.pipeline(
            text=chat,
            return_full_text=False,
            generate_kwargs={"max_new_tokens": self.max_new_tokens, "do_sample": False},
        )
        text = str(found[0]["generated_text"]).strip()
        if not text:
            raise PictureError("the model answered with nothing")
        return text


@dataclass(frozen=True)
class Endpoint:
    """A server and how patient to be with it."""

    url: str
    """Up to and including ``/v1``."""

    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the server need not want one."""

    timeout: float = 120.0
    """Seconds."""

    retries: int = 5
    first_wait: float = 1.0
    """Seconds before the first retry; doubled every time, unless the server says how long."""

    max_new_tokens: int = 128


class EndpointCaptioner:
    """A chat completion per caption. May be called from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Caption with ``endpoint``."""
        if not endpoint.url.startswith(("http://", "https://")):
            raise VilaHDError(
                f"--endpoint {endpoint.url!r}: give an address such as http://localhost:8000/v1"
            )
        self.endpoint = endpoint

    def __call__(self, pictures: Sequence[Image.Image], prompt: str) -> str:
        """The caption."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures
        ]
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            "max_tokens": self.endpoint.max_new_tokens,
            "temperature": 0,
        }
        answer = self._post(json.dumps(body).encode())
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise PictureError(
                f"{self.endpoint.url}: an answer without choices: {str(answer)[:120]}"
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise PictureError(f"{self.endpoint.url}: the model answered with nothing")
        return text.strip()

    def _post(self, body: bytes) -> Any:
        """The JSON answer to one request, after retries."""
        for attempt in range(self.endpoint.retries + 1):
            wait = self.endpoint.first_wait * 2**attempt
            try:
                with urllib.request.urlopen(self._request(body), timeout=self.endpoint.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {_detail(error)}".strip()
                if error.code not in RETRY_STATUS:
                    kind = PictureError if error.code in (400, 413, 422) else VilaHDError
                    raise kind(f"{self.endpoint.url}: {reason}") from error
                wait = _stated_wait(error.headers.get("Retry-After")) or wait
            except (OSError, ValueError) as error:  # no connection, cut off, timed out, no JSON
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.endpoint.retries:
                logger.info("%s: %s; trying again in %.1f s", self.endpoint.url, reason, wait)
                time.sleep(wait)
        raise VilaHDError(
            f"{self.endpoint.url}: {reason}, after {self.endpoint.retries} retries; the same command goes on "
            "where it stopped"
        )

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.endpoint.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(self.endpoint.url.rstrip("/") + "/chat/completions", body, headers)


def _detail(error: urllib.error.HTTPError) -> str:
    """What the server says about an error, on one line."""
    try:
        raw = error.read(4096).decode(errors="replace")
    except OSError:
        return ""
    try:
        message = json.loads(raw)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = raw
    return one_line(message)[:200]


def _stated_wait(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def data_url(picture: Image.Image) -> str:
    """A picture as text."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
