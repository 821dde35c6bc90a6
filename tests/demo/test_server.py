"""The page as it is served: everything of it comes from here, and secrets open one conversation only."""

import json
import re
import socket

import pytest

from demo.pictures import Limits
from demo.service import Service

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def offline():
    """Connections to other machines fail the test that makes them."""
    patch = pytest.MonkeyPatch()
    real, tried = socket.socket.connect, []

    def connect(self, address):
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            tried.append(address)
            raise OSError(f"a test tried to reach {address}")
        return real(self, address)

    patch.setattr(socket.socket, "connect", connect)
    yield tried
    patch.undo()


@pytest.fixture(scope="module")
def served(offline, tiny, tmp_path_factory):
    from starlette.testclient import TestClient

    from demo.launch import be_quiet, make_server

    folder = tmp_path_factory.mktemp("served")
    be_quiet(folder)
    service = Service(*tiny, folder, name="tiny", limits=Limits(new_tokens=8))
    with TestClient(make_server(service)) as client:
        yield service, client


def test_the_page_loads_nothing_from_elsewhere(served, offline):
    _, client = served
    response = client.get("/")
    assert response.status_code == 200
    links = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"'](.*?)[\"']", response.text)
    assert [link for link in links if link.startswith(("http", "//"))] == []
    assert "default-src 'self'" in response.headers["content-security-policy"]
    theme = client.get("/theme.css")
    assert "url(http" not in theme.text
    assert "googleapis" not in theme.text
    assert offline == []


def test_gradio_is_told_to_call_nobody(served):
    _, client = served
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["title"] == "VILA-HD"
    assert all(dependency["api_visibility"] != "public" for dependency in config["dependencies"])


def test_the_viewer_is_a_page_of_its_own_that_may_only_be_framed_from_here(served):
    _, client = served
    response = client.get("/lens/view")
    assert "frame-ancestors 'self'" in response.headers["content-security-policy"]
    assert "img-src 'self'" in response.text
    assert "script-src 'sha256-" in response.text


def test_images_and_reports_need_the_token_of_their_conversation(served, upload):
    service, client = served
    mine, other = service.sessions.open(), service.sessions.open()
    service.attach(mine, [upload()])
    name = mine.waiting[0].shown.name
    assert client.get(f"/lens/{mine.token}/{name}").headers["content-type"] == "image/png"
    for address in (
        f"/lens/{other.token}/{name}",
        f"/lens/guess/{name}",
        f"/lens/{mine.token}/..%2f{other.token}",
        f"/lens/{mine.token}/report-1.html",
    ):
        response = client.get(address)
        assert response.status_code == 404
        assert str(service.sessions._folder) not in response.text


@pytest.fixture
def events(served):
    import gradio as gr

    from demo.app import lay_out
    from demo.events import Events

    with gr.Blocks():
        parts = lay_out(served[0])
    return Events(served[0], parts), parts


def run(steps):
    """What the parts show after an event."""
    shown = {}
    for changes in steps if not isinstance(steps, dict) else [steps]:
        shown.update(changes)
    return shown


def test_a_question_changes_chat_lens_and_numbers(events, upload):
    handlers, parts = events
    shown = run(handlers.open())
    token = shown[parts.token]
    shown = run(handlers.attach(token, {"text": "", "files": [str(upload())]}, 1))
    (waiting,) = json.loads(shown[parts.lens])["pictures"]
    assert waiting["plain"]
    shown = run(handlers.ask(token, 1, "prompt", False, {"text": "what is here?", "files": [str(upload())]}))
    assert shown[parts.chat][-1]["role"] == "assistant"
    (picture,) = json.loads(shown[parts.lens])["pictures"]
    assert picture["urls"]["original"] == waiting["urls"]["original"]
    assert sum(scale["chosen"] for scale in picture["scales"]) > 0
    assert "what is here?" in shown[parts.caption]
    assert "visual tokens" in shown[parts.details]


def test_errors_are_shown_in_the_page(events, tmp_path):
    handlers, parts = events
    token = run(handlers.open())[parts.token]
    (tmp_path / "odd.png").write_bytes(b"<html>")
    files = {"text": "what?", "files": [str(tmp_path / "odd.png")]}
    assert "odd.png: a web page" in run(handlers.ask(token, 1, "prompt", False, files))[parts.notice]
    assert "odd.png: a web page" in run(handlers.attach(token, files, 1))[parts.notice]
    assert (
        "reload the page"
        in run(handlers.ask("gone", 1, "prompt", False, {"text": "what?", "files": []}))[parts.notice]
    )
    assert (
        "is empty"
        in run(handlers.ask(token, 1, "prompt", False, {"text": " ", "files": []}))[parts.chat][-1]["content"]
    )


def test_starting_over_forgets_the_conversation_and_its_files(events, served, upload):
    handlers, parts = events
    token = run(handlers.open())[parts.token]
    run(handlers.ask(token, 1, "prompt", False, {"text": "what is here?", "files": [str(upload())]}))
    folder = served[0].sessions.find(token).folder
    shown = run(handlers.start_over(token))
    assert shown[parts.token] != token
    assert shown[parts.chat] == []
    assert not folder.exists()
