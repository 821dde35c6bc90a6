"""Options, marker skips and the recorded outputs of the reference, shared by all tests."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
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


class Recorded(dict[str, Any]):
    """Recorded values of one case, which remember that they were looked at."""

    def __init__(self, values: Mapping[str, Any], seen: set[str]) -> None:
        super().__init__(values)
        self._seen = seen

    def __getitem__(self, key: str) -> Any:
        self._seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - this is what get does


class Ledger:
    """Which recorded values the tests of this run compared."""

    def __init__(self) -> None:
        self.fields: dict[str, set[str]] = {}
        self.seen: dict[str, set[str]] = {}

    def watch(self, case: str, values: Mapping[str, Any], fields: Collection[str] | None = None) -> Recorded:
        """``values`` of a case that count as compared once they are looked at; ``fields``: which of them."""
        counted = set(values) if fields is None else set(fields) & set(values)
        self.fields.setdefault(case, set()).update(counted)
        return Recorded(values, self.seen.setdefault(case, set()))

    def cases(self) -> list[str]:
        """Cases of which anything was compared."""
        return [case for case, fields in self.fields.items() if fields & self.seen[case]]

    def missing(self) -> Counter[str]:
        """Fields of these cases that were not compared -> in how many cases."""
        return Counter(
            field for case in self.cases() for field in sorted(self.fields[case] - self.seen[case])
        )


def pytest_configure(config: pytest.Config) -> None:
    config.ledgers = {"PS3": Ledger(), "VILA-HD": Ledger()}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was compared, where anything was."""
    for name, ledger in config.ledgers.items():
        if cases := ledger.cases():
            missing = ledger.missing()
            total = sum(len(ledger.fields[case]) for case in cases)
            line = (
                f"recorded {name}: {len(cases)} cases, {total - missing.total()} of {total} fields compared"
            )
            if missing:
                line += "; not: " + ", ".join(f"{field} ({count})" for field, count in missing.items())
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def ledgers(request: pytest.FixtureRequest) -> dict[str, Ledger]:
    """Name of a recording -> what was compared of it."""
    return request.config.ledgers


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
