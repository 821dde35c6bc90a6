"""A media folder and writers of small data files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures ``a.png`` (40 x 30), ``b.png`` (20 x 50) and ``deep/c.png`` (10 x 10)."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "deep").mkdir()
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 50)), ("deep/c.png", (10, 10))):
        Image.new("RGB", size, "red").save(folder / name)
    return folder


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    def write(rows: Sequence[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def llava_row() -> dict[str, Any]:
    """One good LLaVA row."""
    return {
        "id": "x1",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is shown?"},
            {"from": "gpt", "value": "A wall."},
        ],
    }
