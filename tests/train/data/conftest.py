"""Rows of every kind on disk, and a tiny model's processor."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.data.config import SourceConfig
from train.data.samples import SampleDataset
from train.data.sequences import SequenceEncoder
from train.data.sources import open_sources
from vila_hd.options import HighResOptions
from vila_hd.testing import tiny_config, tiny_picture, tiny_processor


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, size in enumerate([(96, 60), (60, 90), (128, 128)]):
        tiny_picture(*size, seed=number).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def rows(folder: Path) -> list[dict[str, Any]]:
    """Text only, one picture, several pictures in several turns, and a box."""
    return [
        {"id": "text", "conversations": turns("Hello?", "Hello.", "And?", "That is all.")},
        {"id": "one", "image": "0.png", "conversations": turns("<image>\nWhat is it?", "A town.")},
        {
            "id": "many",
            "images": ["0.png", "1.png", "2.png"],
            "conversations": turns("<image> <image> Compare.", "Equal.", "And <image>?", "Different."),
        },
        {
            "id": "box",
            "image": "2.png",
            "box": [32, 16, 64.5, 48],
            "conversations": turns("<image>\nWhere is the sign?", "Here."),
        },
    ]


@pytest.fixture
def make_dataset(folder: Path):
    def make(
        rows: list[dict[str, Any]],
        *,
        max_length: int = 2000,
        max_pictures: int | None = None,
        source: dict[str, Any] | None = None,
        **options: Any,
    ) -> SampleDataset:
        path = write_rows(folder / "rows.jsonl", rows)
        config = tiny_config()
        encoder = SequenceEncoder(
            tiny_processor(config),
            options=HighResOptions(budget=80),
            max_length=max_length,
            max_pictures=max_pictures,
            prompt_end_ids=config.prompt_end_ids,
        )
        sources = open_sources([SourceConfig(path=path, convention="interleaved", **(source or {}))])
        return SampleDataset(sources, encoder, **{"rows": 64, "seed": 0, **options})

    return make
