"""Options, marker skips and the recorded outputs of the reference, shared by all tests."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

GOLDEN_PS3 = Path(__file__).parent / "golden" / "ps3"
GOLDEN_VILA_HD = Path(__file__).parent / "golden" / "vila_hd"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=GOLDEN_PS3,
        metavar="PATH",
        help="folder of recorded PS3 outputs: the copy in tests/golden/ps3 holds every case with thinned-out "
        "features; give the full folder to compare every number",
    )
    parser.addoption(
        "--goldens-vila-hd",
        type=Path,
        default=GOLDEN_VILA_HD,
        metavar="PATH",
        help="folder of recorded VILA-HD outputs: the copy in tests/golden/vila_hd holds one of the models "
        "and some of the cases; give the full folder to compare everything",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@dataclass(frozen=True)
class GoldenSet:
    """A folder of recorded reference outputs and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    def checkpoint(self, name: str) -> Path:
        return self.folder / self.manifest["checkpoints"][name]["path"]

    def tensors(self, file: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / file)

    def inputs(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors of a case by argument name, cut to its part of the batch; pixels as float32."""
        stored = self.tensors(self.manifest["inputs"][case["checkpoint"]]["file"])
        rows = slice(*case["batch_slice"]) if case["batch_slice"] else slice(None)
        values = {argument: stored[name][rows] for argument, name in case["inputs"].items()}
        return {name: v.float() if v.dtype == torch.float16 else v for name, v in values.items()}

    def thin(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """``value`` cut down as the copied set was, so that it can be compared with the tensor ``key``."""
        strides = self.manifest.get("strides", {}).get(key.split(".")[0], [1] * value.dim())
        return value[tuple(slice(None, None, step) for step in strides)]


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> GoldenSet:
    folder = request.config.getoption("--goldens")
    return GoldenSet(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def preprocess_goldens(goldens: GoldenSet) -> dict[str, Any]:
    return json.loads((goldens.folder / "preprocess" / "manifest.json").read_text(encoding="utf-8"))
