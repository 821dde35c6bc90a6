"""What loading and converting take in memory, measured in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from llava_compat.checkpoint import Checkpoint, skeleton
from llava_compat.tensors import LazyTensor
from llava_compat.writing import prepare_published, write_weights
from vila_hd.testing import tiny_config, tiny_processor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure peaks"),
]

MEASURE = """
import json, re, sys
from pathlib import Path

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

{setup}
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = status("VmRSS")
{action}
print(json.dumps({{"size": size, "peak": status("VmHWM") - before}}))
"""

LOAD = """
model, _ = load_checkpoint(sys.argv[1], dtype=sys.argv[2], device="cpu")
size = sum(value.nbytes for value in model.state_dict().values())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 400 MB of bfloat16 in the published layout, in shards of 100 MB."""
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 11,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
    }
    config = tiny_config(text=text)
    config.text_config.vocab_size = 12000

    def fill(value: Tensor) -> None:
        value.normal_(std=0.02)

    tensors = {
        name: LazyTensor(name, tuple(value.shape), torch.bfloat16, fill)
        for name, value in skeleton(config).state_dict().items()
    }
    folder = tmp_path_factory.mktemp("large")
    checkpoint = Checkpoint("large", config, tiny_processor(config), GenerationConfig(), tensors)
    stored = prepare_published(checkpoint, folder, name="large", extensions=True)
    write_weights(folder, stored, shard_bytes=10**8)
    return folder


def measure(setup: str, action: str, *arguments: str) -> dict[str, int]:
    program = MEASURE.format(setup=setup, action=action)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_loading_takes_hardly_more_than_the_model(large: Path, dtype: str) -> None:
    result = measure("from llava_compat.checkpoints import load_checkpoint", LOAD, str(large), dtype)
    size, peak = result["size"], result["peak"]
    print(f"\n{dtype}: peak {peak / 1e6:.0f} MB for {size / 1e6:.0f} MB of weights, {peak / size:.2f} times")
    assert result["size"] > 350e6
    assert result["peak"] <= 1.15 * result["size"], result
