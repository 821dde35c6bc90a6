"""Several processes are one server: each answers, they count together and they end together."""

import json
import os
import re
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from vila_hd.cli.__main__ import main
from vila_hd.errors import VilaHDError
from vila_hd.serving.workers import check_room

from .conftest import Process, message

psutil = pytest.importorskip("psutil")

BREAKING = """
import sys
from vila_hd.cli import main
from vila_hd.serving.engine import Engine

def fail(engine, jobs):
    raise SystemError("nothing works any more")

Engine._read = fail  # in each worker, too: they import this file
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


class Team(Process):
    """``vila-hd serve --workers 2``."""

    def __init__(self, folder, script=None):
        super().__init__("--model", folder, "--served-name", "tiny", "--workers", 2, script=script)

    @property
    def workers(self):
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def ask(self, text, *images):
        body = {"model": "tiny", "messages": [message(text, *images)], "max_tokens": 8}
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    def count(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(name + r"(\{|\s)", line))


@pytest.fixture(scope="module")
def team(folder):
    team = Team(folder)
    yield team
    workers = team.workers
    assert team.end() == 0
    assert not any(worker.is_running() for worker in workers)


def test_each_worker_answers_and_all_count_together(team, picture):
    before = team.count("vilahd_answers_total")
    answers = []
    for stopped in team.workers:
        stopped.suspend()  # so that the other one must answer
        try:
            answers += [team.ask("what is it?", picture) for _ in range(3)]
        finally:
            stopped.resume()
    assert len(answers) == 6
    assert len(set(answers)) == 1
    assert team.count("vilahd_answers_total") == before + 6
    assert team.count("vilahd_inside") == 0
    assert team.count("vilahd_picture_cache_bytes") > 0


def test_the_weights_are_there_once(team):
    shared = [
        {
            mapped.path
            for mapped in worker.memory_maps(grouped=False)
            if mapped.path.startswith("/dev/shm/torch_")
        }
        for worker in team.workers
    ]
    assert shared[0]
    assert shared[0] == shared[1]


@pytest.mark.slow
def test_without_one_worker_the_server_ends(folder):
    team = Team(folder)
    first, second = team.workers
    first.kill()
    _, said = team.process.communicate(timeout=60)
    assert team.process.returncode == 2
    assert re.search(
        r"^error: a worker is gone \(.*SIGKILL.*\), so the server ended: start it again$", said, re.M
    )
    assert not second.is_running()


@pytest.mark.slow
def test_a_worker_that_cannot_answer_any_more_ends_the_server(folder, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    team = Team(folder, script=tmp_path / "breaking.py")
    with pytest.raises(urllib.error.HTTPError, match="500"):
        team.ask("what is it?")
    _, said = team.process.communicate(timeout=60)
    assert team.process.returncode == 2
    assert "SystemError: nothing works any more" in said
    assert said.rstrip().splitlines()[-1].startswith("error: a worker is gone")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["ctrl-c", "killed"])
def test_workers_end_with_their_server(folder, end):
    team = Team(folder)
    workers = team.workers
    (counts,) = {
        Path(file.path).parent for file in workers[0].open_files() if "vila-hd-metrics-" in file.path
    }
    if end == "ctrl-c":  # a terminal tells all of them
        for process in (psutil.Process(team.process.pid), *workers):
            process.send_signal(signal.SIGINT)
        team.process.communicate(timeout=60)
        assert team.process.returncode == 130
        assert not counts.exists()
    else:
        os.kill(team.process.pid, signal.SIGKILL)
        team.process.communicate(timeout=60)
        shutil.rmtree(counts)  # nobody is left to do it
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_a_taken_port_is_one_line(team, folder, capsys):
    port = team.url.rpartition(":")[2]
    assert main(["serve", "--model", str(folder), "--port", port, "--workers", "2"]) == 2
    assert f"error: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_weights_that_cannot_be_shared(model, monkeypatch):
    check_room(model, 2)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(VilaHDError, match=r"do not fit into /dev/shm .* --shm-size"):
            check_room(model, 2)
    with pytest.raises(VilaHDError, match="model on meta"):
        check_room(type(model)(model.config).to("meta"), 2)
