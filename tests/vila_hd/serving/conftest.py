"""Tiny models, and servers of them: in a thread with any settings, and in a process as users start it."""

import base64
import contextlib
import io
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from vila_hd.serving.server import Server, ServerSettings, build, make_config
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def model():
    return tiny_model()


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


def data_url(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def message(text, *images):
    """A user's turn as the API of OpenAI takes it."""
    shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


@pytest.fixture(scope="session")
def picture():
    return tiny_picture(120, 90, seed=3)


@dataclass
class Running:
    port: int
    app: object = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve_in_thread(model, processor, **changes):
    settings = ServerSettings(**{"name": "tiny", "port": 0, "grace": 5, **changes})
    app = build(model, processor, settings)
    server = Server(make_config(app, settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def folder(tmp_path_factory, model, processor):
    path = tmp_path_factory.mktemp("serving") / "model"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


class Process:
    """``vila-hd serve`` on a free port."""

    def __init__(self, *words, script=None):
        program = ["-m", "vila_hd.cli"] if script is None else [str(script)]
        command = [sys.executable, *program, "serve", "--port", "0", *map(str, words)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + self.process.stderr.read()
        self.url = line.split()[-1].removesuffix("/v1")

    def end(self):
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture(scope="session")
def server(folder, tmp_path_factory):
    """The command as users start it, in a process of its own."""
    shown = tmp_path_factory.mktemp("shown")
    running = Process("--model", folder, "--served-name", "tiny", "--allow-files", shown)
    running.shown = shown
    yield running
    assert running.end() == 0


@pytest.fixture(scope="session")
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=server.url + "/v1", api_key="not-needed", max_retries=0, timeout=120)
