"""Two machines, played by two torchrun agents on one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vila_hd
from vila_hd.utils.config import to_dict

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_torchrun_agents_train_one_model(tiny_stage, tmp_path):
    config = tiny_stage(tmp_path / "run", zero=2, max_steps=2)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}"]
        command += ["--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
        command += ["-m", "train", "--config", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        agents.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        outputs = [agent.communicate(timeout=580)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)[-6000:]
    assert '"processes": 2' in (tmp_path / "run" / "versions.json").read_text()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    vila_hd.load(tmp_path / "run" / "model")
