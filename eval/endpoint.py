"""Models behind an OpenAI-compatible endpoint (``/chat/completions``)."""

import base64
import http.client
import io
import json
import os
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from vila_hd.errors import VilaHDError

from .external import Reply
from .failures import CannotGoOnError

KEY = "OPENAI_API_KEY"
"""Environment variable of the key. Keys are never taken from the command line, which is logged."""

PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may pass."""

LONGEST_PAUSE = 60.0


class EndpointError(RuntimeError):
    """One question was not answered."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None: a redirect could send the key to another host."""


class EndpointChat:
    """A model behind an endpoint.

    Args:
        model: its name there.
        base_url: address up to and with ``/v1``.
        timeout: seconds for one try.
        retries: further tries after a failure that may pass.
        sleep: waits so many seconds.

    Raises:
        VilaHDError: an option has an impossible value.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        timeout: float = 120.0,
        retries: int = 5,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise VilaHDError(f"--base-url {base_url!r}: use http://... or https://..., with /v1")
        if timeout <= 0 or retries < 0:
            raise VilaHDError(f"--timeout {timeout:g} --retries {retries}: use more than 0 s, and 0 or more")
        self._model = model
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._timeout, self._retries, self._sleep = timeout, retries, sleep
        self._key = os.environ.get(KEY, "")
        self._length = "max_tokens"
        self._opener = urllib.request.build_opener(_NoRedirect())

    def ask(self, pictures: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> Reply:
        """The answer at temperature 0.

        Raises:
            CannotGoOnError: the endpoint is not there, refuses the key or the model, or keeps limiting.
            EndpointError: it refuses this question, or fails on it every time.
        """
        items = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
        message = {"role": "user", "content": [*items, {"type": "text", "text": prompt}]}
        body = {"model": self._model, "messages": [message], "temperature": 0}
        answer = self._post(body, max_new_tokens)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{self._url}: no answer in {self._hide(json.dumps(answer))[:200]}"
            ) from error
        usage = answer.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            text=text or "",
            prompt_tokens=usage.get("prompt_tokens"),
            visual_tokens=details.get("image_tokens"),
        )

    def _post(self, body: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
        """The endpoint's answer, tried again after what may pass."""
        tries = 0
        while True:
            try:
                return self._send({**body, self._length: max_new_tokens})
            except urllib.error.HTTPError as error:
                text = self._hide(error.read(2000).decode(errors="replace"))
                # Newer models of OpenAI take the limit under this name only.
                if error.code == 400 and "max_completion_tokens" in text and self._length == "max_tokens":
                    self._length = "max_completion_tokens"
                    continue
                failure = self._refusal(error.code, text, tries)
                pause = _seconds(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                failure = self._silence(error, tries)
                pause = None
            if failure is not None:
                raise failure
            # Half of it random, so that parallel requests do not come back together.
            wait = 2.0**tries * (0.5 + random.random() / 2) if pause is None else pause
            self._sleep(min(wait, LONGEST_PAUSE))
            tries += 1

    def _send(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=self._timeout) as response:
            content = response.read()
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise EndpointError(f"{self._url} answered no JSON: {content[:100]!r}") from error
        if not isinstance(answer, dict):
            raise EndpointError(f"{self._url} answered {content[:100]!r}, no object")
        return answer

    def _refusal(self, status: int, text: str, tries: int) -> Exception | None:
        """What to raise after a status; None: try again."""
        said = f"{self._url} answered {status}: {' '.join(text.split())[:200]}"
        if status in (401, 403):
            return CannotGoOnError(f"{said}; set the environment variable {KEY}")
        if status == 404 or 300 <= status < 400:
            return CannotGoOnError(f"{said}; check --base-url and the name of the model")
        if status not in PASSING:
            return EndpointError(said)
        if tries < self._retries:
            return None
        if status == 429:
            return CannotGoOnError(f"{said}; wait, use fewer --processes or more --retries, and start again")
        return EndpointError(f"{said} ({tries + 1} tries)")

    def _silence(self, error: Exception, tries: int) -> Exception | None:
        """What to raise when no answer came; None: try again."""
        if tries < self._retries:
            return None
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (TimeoutError, socket.timeout)):
            return EndpointError(f"{self._url}: no answer in {self._timeout:g} s ({tries + 1} tries)")
        if isinstance(reason, (ConnectionRefusedError, socket.gaierror)):
            return CannotGoOnError(f"{self._url}: {reason}; check --base-url, and that the server runs")
        return EndpointError(f"{self._url}: {type(reason).__name__} {reason} ({tries + 1} tries)")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of the header; None where it is missing or a date."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def _data_url(picture: Image.Image) -> str:
    """The picture without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
