import sys

import pytest

from eval.speed.client import Worker, script_beside
from vila_hd.errors import VilaHDError

FAKE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("measuring", sys.argv[1])
measuring = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measuring)
import torch
def build(job):
    print("a library talks")
    kept = []
    def run():
        kept.append(torch.ones(job["side"], 1024 * 1024 // 4))
        return measuring.Outcome(tokens=7, check=1.0)
    return run
measuring.serve(build)
"""


def fake(code, *, side=1):
    return Worker(
        "fake", [sys.executable, "-c", code, script_beside("measuring.py")], job={"threads": 1, "side": side}
    )


def test_peak_memory_is_what_the_runs_added():
    with fake(FAKE, side=64) as worker:
        ready = worker.receive()
        assert [worker.ask("run")["tokens"] for _ in range(2)] == [7, 7]
        end = worker.ask("finish")
    assert ready["baseline_bytes"] == end["baseline_bytes"]
    assert 128 <= (end["peak_bytes"] - end["baseline_bytes"]) / 2**20 < 200


def test_a_failing_worker_reports_its_last_line():
    message = "fake stopped with exit status 1: RuntimeError: out of luck"
    with (
        fake("input(); raise RuntimeError('out of luck')") as worker,
        pytest.raises(VilaHDError, match=message),
    ):
        worker.receive()


def test_a_missing_program_is_one_line():
    with pytest.raises(VilaHDError, match="cannot start fake with /no/python"):
        Worker("fake", ["/no/python"], job={})
