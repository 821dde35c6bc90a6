"""Loads are what they say, and the measurement of a server ends with figures or with what went wrong."""

import base64
import http.server
import json
import random
import subprocess
import sys
import threading

import psutil
import pytest
from PIL import Image

from eval.launch import main
from eval.speed import hostile, serving
from eval.speed.load import Shown, make_body, run_load
from eval.speed.serving import WAYS, ServeRun, _row
from eval.speed.serving import Memory as Resident
from vila_hd.errors import VilaHDError

SHOWN = Shown(base64.b64encode(b"not-a-jpeg!!"), ("what?", "where?"))


class Server(http.server.BaseHTTPRequestHandler):
    """Answers every second request."""

    count = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).count += 1
        self.send_response(200 if self.count % 2 else 500)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Fresh", (Server,), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address
    server.shutdown()
    server.server_close()


def test_a_new_picture_is_another_file_with_the_same_pixels(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    shown = Shown(base64.b64encode(content + b"\0" * (-len(content) % 3)), ("what?",))
    chance = random.Random(0)
    bodies = [json.loads(make_body(shown, chance, new=new)) for new in (True, True, False)]
    urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in bodies]
    assert len(set(urls)) == 3
    for i, url in enumerate(urls):
        (tmp_path / f"{i}.jpg").write_bytes(base64.b64decode(url.partition(",")[2], validate=True))
        assert Image.open(tmp_path / f"{i}.jpg").tobytes() == Image.open(tmp_path / "a.jpg").tobytes()


def test_failures_and_attacks_are_counted(address):
    attacks = iter(["", "let in"] * 1000)
    outcome = run_load(
        address, [SHOWN], clients=2, seconds=0.3, new=False, hostile=0.5,
        attack=lambda address, random_: next(attacks), watch=lambda seconds: None,
    )  # fmt: skip
    assert outcome.seconds
    assert outcome.failures
    assert outcome.failures[0].startswith("status 500")
    assert outcome.refused
    assert set(outcome.harmful) == {"let in"}


@pytest.mark.parametrize("attack", hostile.ATTACKS, ids=lambda attack: attack.__name__)
def test_a_server_that_lets_everything_in_is_noticed(address, attack):
    if attack in (hostile.slow, hostile.leaver, hostile.special_tokens, hostile.huge_claim):
        assert attack.__doc__  # these are about the other requests, or about connections
    else:
        assert attack(address).startswith(attack.__name__)


def test_a_row_compares_with_the_first_about_the_same_pictures():
    from eval.speed.load import Outcome

    run = ServeRun(seconds=10.0)
    memory = Resident(psutil.Process(), 10.0, thirds=([90.0], [100.0, 121.0, 120.0], [119.0, 118.0]))
    first = _row(run, "one by one", Outcome(seconds=[0.5] * 20), memory, [])
    second = _row(run, "together", Outcome(seconds=[0.1] * 50, failures=["x"]), memory, [first])
    assert (first["rate"], first["faster"], first["pictures"]) == (2.0, None, "new")
    assert (second["rate"], second["faster"], second["failed"]) == (5.0, 2.5, 1)
    assert (second["warm_mb"], second["end_mb"]) == (120.0, 118.5)
    kept = _row(run, "together, pictures kept", Outcome(seconds=[0.1] * 90), memory, [first, second])
    assert (kept["faster"], kept["pictures"]) == (None, "again")


def test_memory_of_all_processes_by_thirds_of_the_time():
    command = "x = bytearray(200_000_000); print(flush=True); input()"
    alone = Resident(psutil.Process(), 9.0)
    for seconds in (0.0, 2.9, 3.0, 8.9, 9.5):
        alone.look(seconds)
    assert [len(third) for third in alone.thirds] == [2, 1, 2]
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        both = Resident(psutil.Process(), 9.0)
        both.look(0.0)
        child.communicate(b"\n")
    assert both.thirds[0][0] - alone.thirds[2][0] == pytest.approx(200, abs=50)


def test_a_server_that_ends_while_it_is_measured(tmp_path, monkeypatch):
    def killing(address, pictures, *, watch, **unused):
        (server,) = (child for child in psutil.Process().children() if "sleep" in child.cmdline())
        server.kill()
        server.wait()
        watch(0.0)

    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho no memory >&2\necho http://127.0.0.1:1\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(serving, "run_load", killing)
    with pytest.raises(VilaHDError, match="ended while it was measured: no memory"):
        serving.run_serving(ServeRun(ways=("together",)), command="")


@pytest.mark.parametrize(
    "changes",
    [
        {"ways": ("fast",)},
        {"clients": 0},
        {"hostile": 1.0},
        {"seconds": 0.0},
        {"workers": 0},
        {"max_tokens": 0},
    ],
)
def test_impossible_measurements(changes):
    with pytest.raises(VilaHDError):
        ServeRun(**changes)


@pytest.mark.slow
def test_a_short_load_with_hostile_requests(capsys, tmp_path):
    """The load test in small: no good request fails, no hostile one is let in."""
    words = [
        "--ways",
        list(WAYS)[-1],
        "--clients",
        "8",
        "--seconds",
        "8",
        "--scenes",
        "1",
        "--hostile",
        "0.2",
    ]
    assert main(["speed", "serve", *words, "--json", str(tmp_path / "report.json")]) == 0
    (row,) = json.loads((tmp_path / "report.json").read_text())["tables"][0]["rows"]
    assert row["answered"] > 0
    assert row["failed"] == row["harmful"] == 0
