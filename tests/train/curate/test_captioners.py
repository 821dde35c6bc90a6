"""Captions of a server on this machine: what it is sent, and what happens when it fails."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from train.curate.captioners import MAX_PIXELS, Endpoint, EndpointCaptioner, limit_pixels
from train.curate.rows import PictureError
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_picture


class Server:
    """Answers with the next of ``answers``, the last one for ever: a text, a status, or (status, headers)."""

    def __init__(self, answers):
        self.answers, self.requests = list(answers), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                outer.reply(self, answer)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @staticmethod
    def reply(handler, answer):
        status, headers = (
            answer if isinstance(answer, tuple) else (answer if isinstance(answer, int) else 200, {})
        )
        body = (
            {"choices": [{"message": {"content": answer}}]}
            if status == 200
            else {"error": {"message": "no\nluck"}}
        )
        content = b"<html>" if answer == "html" else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@pytest.fixture
def serve():
    servers = []

    def start(*answers):
        servers.append(Server(answers))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def captioner(server, **options):
    values = {"model": "vlm", "retries": 3, "first_wait": 0.01, "timeout": 5.0}
    return EndpointCaptioner(Endpoint(url=server.url, **{**values, **options}))


def test_request_holds_pictures_and_prompt(serve, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    server = serve("  A door.\n")
    pictures = [tiny_picture(40, 30), tiny_picture(10, 20)]
    assert captioner(server, key_variable="SOME_KEY")(pictures, "what?") == "A door."
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "vlm"
    first, second, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what?"}
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))).size
        for part in (first, second)
    ]
    assert sizes == [(40, 30), (10, 20)]


def test_no_key_sends_no_header(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = serve("x")
    captioner(server)([], "what?")
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("failures", [[503], [429, 500], [(429, {"Retry-After": "0"})], ["html"]])
def test_passing_failures_are_tried_again(serve, failures):
    server = serve(*failures, "A door.")
    assert captioner(server)([], "what?") == "A door."
    assert len(server.requests) == len(failures) + 1


def test_lasting_failure_stops_after_the_retries(serve):
    server = serve(503)
    with pytest.raises(VilaHDError, match="HTTP 503 no luck, after 3 retries") as caught:
        captioner(server)([], "what?")
    assert not isinstance(caught.value, PictureError)
    assert len(server.requests) == 4


def test_refused_request_is_the_pictures_fault_and_not_repeated(serve):
    server = serve(400)
    with pytest.raises(PictureError, match="HTTP 400 no luck"):
        captioner(server)([], "what?")
    assert len(server.requests) == 1


def test_wrong_key_stops_everything(serve):
    with pytest.raises(VilaHDError, match="HTTP 401") as caught:
        captioner(serve(401))([], "what?")
    assert not isinstance(caught.value, PictureError)


def test_empty_answer_is_no_caption(serve):
    with pytest.raises(PictureError, match="answered with nothing"):
        captioner(serve("  "))([], "what?")


def test_nobody_there_is_named():
    nobody = EndpointCaptioner(
        Endpoint(url="http://127.0.0.1:9/v1", model="m", retries=1, first_wait=0.01, timeout=2.0)
    )
    with pytest.raises(VilaHDError, match=r"http://127.0.0.1:9/v1: .*after 1 retries"):
        nobody([], "what?")
    with pytest.raises(VilaHDError, match="give an address"):
        EndpointCaptioner(Endpoint(url="localhost:8000", model="m"))


def test_pictures_are_made_small_but_never_larger():
    small = limit_pixels(Image.new("RGB", (4000, 1000)))
    assert small.width * small.height <= MAX_PIXELS
    assert small.width / small.height == pytest.approx(4, rel=0.01)
    assert limit_pixels(Image.new("RGB", (100, 50))).size == (100, 50)
