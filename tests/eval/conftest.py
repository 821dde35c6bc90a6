"""A benchmark of a few multiple-choice questions, and a tiny model in a folder."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import pytest

from eval import registry
from eval.registry import Example
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

LETTERS = "ABCD"


class BrokenPictureError(OSError):
    """What a truncated file raises."""


def picture(index: int, broken: bool):
    if broken:
        raise BrokenPictureError("truncated\nmore about it")
    return (tiny_picture(96, 64, seed=index),)


@dataclass(kw_only=True)
class Choices:
    """Which letter is it?"""

    name: str = "choices"
    metric: str = "letter"
    max_new_tokens: int = 2
    count: int = 6
    revision: str = "r1"
    broken_pictures: set[int] = field(default_factory=set)
    broken_examples: set[int] = field(default_factory=set)

    def __len__(self):
        return self.count

    def example(self, index):
        if index in self.broken_examples:
            raise KeyError("image")
        return Example(
            uid=f"q{index}",
            prompt=f"question {index}? Answer with the letter.",
            load_images=partial(picture, index, index in self.broken_pictures),
            answers=(LETTERS[index % 4],),
            group="even" if index % 2 == 0 else "odd",
        )

    def score(self, example, prediction):
        return float(prediction[:1] == example.answers[0])

    def aggregate(self, scores):
        return sum(scores) / len(scores)


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choices]:
    """The benchmark that ``--tasks choices`` opens; change it before a run."""
    benchmark = Choices()
    module = ModuleType("choices_of_the_tests")
    module.__dict__["opened"] = lambda: benchmark
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.BENCHMARKS, "choices", f"{module.__name__}:opened")
    return benchmark


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """A saved tiny random VILA-HD model."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path
