"""Keys, limits of all bodies together, and how the server ends."""

import hmac
import json
import signal
import threading
import urllib.error
import urllib.request

import pytest

from vila_hd import VilaHDError
from vila_hd.cli import main
from vila_hd.cli.parsers import command_parser
from vila_hd.cli.serve import settings_of
from vila_hd.serving import guard
from vila_hd.serving.errors import ApiError, as_api_error
from vila_hd.serving.guard import Guard, GuardRules
from vila_hd.serving.server import read_keys

from .conftest import Process, message, serve_in_thread

KEYS = ("first-secret", "second-secret")


@pytest.fixture(scope="module")
def locked(model, processor):
    with serve_in_thread(model, processor, keys=KEYS) as server:
        yield server


def get(server, path, **headers):
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic first-secret", "Bearer first-secre", "Bearer \xff"],
)
def test_without_a_key_nothing_but_health(locked, given):
    for path in ("/v1/models", "/metrics", "/mcp", "/openapi.json", "/nothing"):
        status, body = get(locked, path, Authorization=given)
        assert status == 401
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert not any(key.encode() in body for key in KEYS)
    assert get(locked, "/health")[0] == 200


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(locked, key):
    assert get(locked, "/v1/models", Authorization=f"Bearer {key}")[0] == 200


def test_keys_are_compared_in_constant_time(monkeypatch):
    """All of them, equally long, and by the function that is made for it."""
    compared, real = [], hmac.compare_digest

    def compare(one, other):
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    rules = GuardRules(keys=("a", "a much longer key", "third"))
    checked = Guard(None, rules, lambda path, status: None)
    checked._check_key("Bearer a")
    with pytest.raises(ApiError):
        checked._check_key("Bearer not one of them")
    assert compared == [(32, 32)] * 6


def test_the_key_is_no_argument():
    with pytest.raises(VilaHDError):
        command_parser("serve").parse_args(["--api-key", "secret"])


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("first-secret\n\n second-secret \n")
    assert read_keys(file) == KEYS
    monkeypatch.setenv("VILA_HD_API_KEY", "from-the-environment")
    assert read_keys(None) == ("from-the-environment",)
    monkeypatch.setenv("VILA_HD_API_KEY", "short")
    with pytest.raises(VilaHDError, match="less than 8"):
        read_keys(None)
    file.write_text("\n")
    with pytest.raises(VilaHDError, match="no key in it"):
        read_keys(file)
    with pytest.raises(VilaHDError, match="cannot be read"):
        read_keys(tmp_path / "missing")


def test_bodies_are_limited_together():
    checked = Guard(None, GuardRules(max_body=100, max_bodies=150), lambda path, status: None)
    checked.hold(90, 90)
    with pytest.raises(ApiError) as caught:
        checked.hold(80, 80)
    assert caught.value.status == 429


def test_errors_tell_nothing_of_the_inside():
    assert (
        as_api_error(RuntimeError("/root/secret.py line 3")).message
        == "internal error; the server's log tells more"
    )
    assert as_api_error(MemoryError()).status == 503
    assert as_api_error(VilaHDError("said to the user")).message == "said to the user"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allow-files", "/no/such/folder"], "no such folder"),
        (["--max-batch", "0"], ">= 1"),
        (["--port", "x"], "whole number"),
        (["--port", "65536"], "0 to 65535"),
        (["--api-key-file", "/no/such/file"], "cannot be read"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(capsys, words, said):
    assert main(["serve", *words]) == 2
    assert said in capsys.readouterr().err


def test_urls_are_fetched_only_when_asked_for():
    def sources(*words):
        return settings_of(command_parser("serve").parse_args(words)).sources

    assert not sources().urls
    assert sources("--allow-urls").urls
    some = sources("--url-hosts", "a.example", "b.example")
    assert some.urls
    assert some.hosts == {"a.example", "b.example"}


def test_an_open_server_for_everybody_warns(capsys):
    settings_of(command_parser("serve").parse_args(["--host", "0.0.0.0"]))
    assert "everybody who reaches 0.0.0.0" in capsys.readouterr().err


def test_a_taken_port_is_one_line(locked, folder, capsys):
    assert main(["serve", "--model", str(folder), "--port", str(locked.port)]) == 2
    assert f"error: cannot listen on 127.0.0.1:{locked.port}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_answers_end_before_the_server_does(folder, workers):
    """SIGTERM: no new connections, but the stream that runs is finished; exit status 0."""
    server = Process("--model", folder, "--served-name", "tiny", "--workers", workers)
    body = {"model": "tiny", "messages": [message("go on")], "max_tokens": 300, "stream": True}
    request = urllib.request.Request(
        server.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        first = response.readline()
        threading.Thread(target=server.process.send_signal, args=(signal.SIGTERM,)).start()
        rest = response.read()
    assert first.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")
    # All 300 tokens; how many of them are text is the random model's affair.
    assert b'"finish_reason": "length"' in rest
    assert rest.count(b'"content"') > 50
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0
