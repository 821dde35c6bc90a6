"""A benchmark of a few multiple-choice questions, a tiny model in a folder, and an endpoint."""

import json
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import pytest

from eval import registry
from eval.registry import Example
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

LETTERS = "ABCD"


class BrokenPictureError(OSError):
    """What a truncated file raises."""


def picture(index: int, broken: bool, interrupted: bool):
    if interrupted:
        raise KeyboardInterrupt
    if broken:
        raise BrokenPictureError("truncated\nmore about it")
    return (tiny_picture(96, 64, seed=index),)


@dataclass(kw_only=True)
class Choices:
    """Which letter is it?"""

    name: str = "choices"
    metric: str = "letter"
    max_new_tokens: int = 2
    count: int = 6
    revision: str = "r1"
    broken_pictures: set[int] = field(default_factory=set)
    broken_examples: set[int] = field(default_factory=set)
    interrupted: set[int] = field(default_factory=set)
    """Ctrl-C comes when these are asked."""

    def __len__(self):
        return self.count

    def example(self, index):
        if index in self.broken_examples:
            raise KeyError("image")
        return Example(
            uid=f"q{index}",
            prompt=f"question {index}? Answer with the letter.",
            load_images=partial(picture, index, index in self.broken_pictures, index in self.interrupted),
            answers=(LETTERS[index % 4],),
            group="even" if index % 2 == 0 else "odd",
        )

    def score(self, example, prediction):
        return float(prediction[:1] == example.answers[0])

    def aggregate(self, scores):
        return sum(scores) / len(scores)


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choices]:
    """The benchmark that ``--tasks choices`` opens; change it before a run."""
    benchmark = Choices()
    module = ModuleType("choices_of_the_tests")
    module.__dict__["opened"] = lambda: benchmark
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.BENCHMARKS, "choices", f"{module.__name__}:opened")
    return benchmark


@pytest.fixture
def disk_of():
    """While it holds, no file can grow beyond so many bytes: what a full disk looks like to a program."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """A saved tiny random VILA-HD model."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def answer(text="B", **usage):
    """What an endpoint sends: status, content, further headers."""
    return 200, {"choices": [{"message": {"content": text}}], "usage": usage}, {}


class Fake(ThreadingHTTPServer):
    """An endpoint on this machine that says what it is told to: by default an answer."""

    daemon_threads = True
    answer = staticmethod(answer)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = []
        self.requests = []
        self.reply = lambda body: answer(prompt_tokens=7, prompt_tokens_details={"image_tokens": 5})
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Takes the next step of the script."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        step = self.server.script.pop(0) if self.server.script else self.server.reply(body)
        if callable(step):
            step(self)
            return
        status, content, headers = step
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """An endpoint that runs, without a key in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
