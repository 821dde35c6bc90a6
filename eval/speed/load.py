"""Clients that ask a server about 4K scenes, all at the same time."""

import base64
import http.client
import io
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from vila_hd.scenes import make_scene, questions, render, split_seeds

NAME = "measured"
"""What the server is told to call its model, and requests name."""

SIZES = ((3840, 2160), (1920, 1080), (768, 432))
"""(width, height) in pixels of the pictures, in turn."""


@dataclass(frozen=True)
class Shown:
    """A picture with questions about it."""

    base64: bytes
    """JPEG; whole bytes, so that more base64 text can be appended."""

    questions: tuple[str, ...]


@dataclass
class Outcome:
    """What came of all requests of one load."""

    seconds: list[float] = field(default_factory=list)
    """Of every good request that was answered."""

    failures: list[str] = field(default_factory=list)
    """Good requests that were not."""

    refused: int = 0
    """Hostile requests that were refused, or harmless after all."""

    harmful: list[str] = field(default_factory=list)
    """Hostile requests with another outcome."""


def draw_pictures(scenes: int) -> list[Shown]:
    """Held-out scenes, each in every size."""
    shown = []
    for seed in split_seeds("test", scenes):
        scene = make_scene(seed)
        image = Image.fromarray(render(scene))
        asked = tuple(q.text for q in questions(scene, np.random.default_rng(seed)))
        for size in SIZES:
            buffer = io.BytesIO()
            image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
            content = buffer.getvalue()
            content += b"\0" * (-len(content) % 3)
            shown.append(Shown(base64.b64encode(content), asked))
    return shown


def make_body(shown: Shown, random_: random.Random, *, new: bool, max_tokens: int = 32) -> bytes:
    """A request about a picture.

    Args:
        shown: the picture.
        random_: chooses question and budget.
        new: make the file one that the server has never seen: bytes after the end of a JPEG count for
            nothing.
        max_tokens: longest answer.
    """
    picture = shown.base64 + (base64.b64encode(random_.randbytes(12)) if new else b"")
    question, budget = random_.choice(shown.questions), random_.choice(("auto", 0, 72, 144))
    words = {"type": "text", "text": question}
    address = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,PICTURE"}}
    message = {"role": "user", "content": [address, words]}
    body = {"model": NAME, "messages": [message], "max_tokens": max_tokens, "high_res": {"budget": budget}}
    return json.dumps(body).encode().replace(b"PICTURE", picture)


def post(host: str, port: int, body: bytes, *, timeout: float = 120.0) -> tuple[int, bytes]:
    """``(status, content)`` of a chat request."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def run_load(
    address: tuple[str, int],
    pictures: Sequence[Shown],
    *,
    clients: int,
    seconds: float,
    new: bool,
    hostile: float,
    attack: Callable[[tuple[str, int], random.Random], str],
    watch: Callable[[float], None],
    max_tokens: int = 32,
) -> Outcome:
    """Ask for ``seconds`` with ``clients`` at a time.

    Args:
        address: of the server.
        pictures: what is asked about.
        clients: requests at the same time.
        seconds: how long; requests that run then are waited for.
        new: see ``make_body``.
        hostile: share of requests that are attacks.
        attack: makes one; returns what went wrong, or nothing.
        watch: called every second with the seconds so far.
        max_tokens: see ``make_body``.
    """
    outcome, lock = Outcome(), threading.Lock()
    started = time.monotonic()

    def work(number: int) -> None:
        random_ = random.Random(number)
        while time.monotonic() - started < seconds:
            if random_.random() < hostile:
                harm = attack(address, random_)
                with lock:
                    outcome.refused += not harm
                    outcome.harmful += [harm] if harm else []
                continue
            body = make_body(random_.choice(pictures), random_, new=new, max_tokens=max_tokens)
            begun = time.monotonic()
            try:
                status, content = post(*address, body)
            except (OSError, http.client.HTTPException) as error:
                status, content = 0, f"{type(error).__name__} {error}".encode()
            with lock:
                if status == 200:
                    outcome.seconds.append(time.monotonic() - begun)
                else:
                    outcome.failures.append(f"status {status}: {content[:200].decode(errors='replace')}")

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watch(time.monotonic() - started)
        time.sleep(1.0)
    return outcome
