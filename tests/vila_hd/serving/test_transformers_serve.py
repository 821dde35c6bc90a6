"""A saved folder under `transformers serve`, in a process that knows nothing of us but the folder."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

import vila_hd

from .conftest import message


@pytest.fixture(scope="module")
def client(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    options = ["--trust-remote-code", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [program, "serve", str(folder), *options, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    while True:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        try:
            urllib.request.urlopen(url + "/health", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    yield openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=300)
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.slow
def test_answers_are_those_of_the_library(client, folder, model, processor, picture):
    """With the budget and the guide of the checkpoint: nothing can be said per request there."""
    messages = [message("what is it?", picture)]
    alone = vila_hd.ask(model, processor, [picture], "what is it?", max_new_tokens=12)
    asked = {"model": str(folder), "messages": messages, "max_tokens": 12, "temperature": 0}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content.strip() == alone.text
    stream = client.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    # Its stream drops bytes that are no text, of which a random model writes many.
    assert text.strip()
    assert alone.text.startswith(text.strip())
