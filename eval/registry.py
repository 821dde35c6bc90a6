"""What a benchmark supplies, and where each one is."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from vila_hd.errors import VilaHDError
from vila_hd.options import Box


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question as the model will see it. ``uid`` is stable across runs and shards."""

    uid: str

    prompt: str

    load_images: Callable[[], tuple[Any, ...]]
    """The pictures, read or drawn when called: an example that is already answered costs nothing."""

    answers: tuple[str, ...]

    regions: tuple[tuple[Box, ...], ...] = ()
    """Per picture, the boxes in pixels that the answer can be read from; empty where nobody knows."""

    group: str = ""
    """Kind of the question, for the breakdown of the report."""

    options: tuple[str, ...] = ()
    """Texts of the choices A, B, C, ... of a multiple-choice question."""

    item: str = ""
    """What questions that only count together share; empty: the question counts on its own."""

    rule: str = ""
    """Which of the benchmark's scoring rules applies, where it has several."""


class Benchmark(Protocol):
    """What a benchmark supplies. It never sees the model; the runner never sees the scoring.

    Classes in ``BENCHMARKS`` need no argument; one that reads files may take ``data``, a folder, instead of
    where it finds them by itself. An attribute ``revision`` (text) says which version of the data it is;
    predictions of another one are not mixed in. The first line of the class's docstring is its description
    in ``python -m eval list``. :func:`full_score`, :func:`provenance` and :func:`summarise` ask for what else
    a benchmark may say.
    """

    @property
    def name(self) -> str:
        """Name in commands and files."""
        ...

    @property
    def metric(self) -> str:
        """What the score is called."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def example(self, index: int) -> Example:
        """The example at ``index``, the same in every process."""
        ...

    def score(self, example: Example, prediction: str) -> float:
        """Score of one prediction."""
        ...

    def aggregate(self, scores: Sequence[float]) -> float:
        """Score of the benchmark from those of all its examples in order, 0 to 1."""
        ...


BENCHMARKS = {
    "scenes": "eval.benchmarks.scenes:SceneBenchmark",
    "textvqa_val": "eval.benchmarks.text_reading:TEXTVQA_VAL",
    "docvqa_val": "eval.benchmarks.text_reading:DOCVQA_VAL",
    "infovqa_val": "eval.benchmarks.text_reading:INFOVQA_VAL",
    "chartqa": "eval.benchmarks.text_reading:CHARTQA",
    "ocrbench": "eval.benchmarks.text_reading:OCRBENCH",
    "vstar": "eval.benchmarks.high_resolution:VSTAR",
    "vstar_attribute": "eval.benchmarks.high_resolution:VSTAR_ATTRIBUTE",
    "vstar_position": "eval.benchmarks.high_resolution:VSTAR_POSITION",
    "hrbench4k": "eval.benchmarks.high_resolution:HRBENCH4K",
    "hrbench8k": "eval.benchmarks.high_resolution:HRBENCH8K",
    "realworldqa": "eval.benchmarks.high_resolution:REALWORLDQA",
    "mme_realworld": "eval.benchmarks.high_resolution:MME_REALWORLD",
    "4kpro": "eval.benchmarks.high_resolution:FOUR_K_PRO",
    "ai2d": "eval.benchmarks.exams:AI2D",
    "mmmu_val": "eval.benchmarks.exams:MMMU_VAL",
    "mmmu_pro_standard": "eval.benchmarks.exams:MMMU_PRO_STANDARD",
    "mmmu_pro_vision": "eval.benchmarks.exams:MMMU_PRO_VISION",
    "scienceqa_img": "eval.benchmarks.exams:SCIENCEQA_IMG",
    "mathvista_testmini": "eval.benchmarks.exams:MATHVISTA_TESTMINI",
    "mmbench_en_dev": "eval.benchmarks.perception:MMBENCH_EN_DEV",
    "mme": "eval.benchmarks.perception:MME",
    "pope": "eval.benchmarks.perception:POPE",
    "mmstar": "eval.benchmarks.perception:MMSTAR",
    "seedbench_2_plus": "eval.benchmarks.perception:SEEDBENCH_2_PLUS",
}
"""Name -> class or task, imported when asked for."""


def full_name(name: str) -> str:
    """The key of ``BENCHMARKS`` that a name stands for: ``textvqa`` is ``textvqa_val``.

    Raises:
        VilaHDError: there is none, or several fit.
    """
    longer = [key for key in BENCHMARKS if key.startswith(f"{name}_")]
    if name in BENCHMARKS:
        return name
    if f"{name}_val" in BENCHMARKS:
        return f"{name}_val"
    if len(longer) == 1:
        return longer[0]
    some = longer or get_close_matches(name, BENCHMARKS, cutoff=0.5) or list(BENCHMARKS)
    raise VilaHDError(f"benchmark {name!r} is unknown: use one of {', '.join(some)} (python -m eval list)")


def get_benchmark(name: str) -> Callable[..., Benchmark]:
    """The benchmark class (or the ``Task``, which is called like one) that is called ``name``.

    Raises:
        VilaHDError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise VilaHDError(f"benchmark {name!r} is unknown: use one of {', '.join(BENCHMARKS)}")
    module, attribute = BENCHMARKS[name].split(":")
    found: Callable[..., Benchmark] = getattr(importlib.import_module(module), attribute)
    return found


def open_benchmark(name: str, *, data: Path | None = None) -> Benchmark:
    """The benchmark called ``name``, ready to be asked for examples.

    Args:
        name: a key of ``BENCHMARKS``.
        data: folder of its files; None: where it finds them by itself.

    Raises:
        VilaHDError: there is no such benchmark, its files are missing, or it takes no folder.
    """
    found = get_benchmark(name)
    if data is None:
        opened: Benchmark = found()
    elif "data" in inspect.signature(found).parameters:
        opened = found(data=data)
    else:
        raise VilaHDError(f"--data {data}: benchmark {name!r} reads no files; leave it out")
    return opened


def data_revision(benchmark: Benchmark) -> str:
    """Which version of its data a benchmark has; empty where it does not say."""
    return str(getattr(benchmark, "revision", None) or "")


def full_score(benchmark: Benchmark) -> float:
    """What the best score, 1.0, is called in the field: 100 (percent) unless the benchmark says otherwise."""
    return float(getattr(benchmark, "full_score", 100.0))


def provenance(benchmark: Benchmark) -> Mapping[str, str]:
    """Where the questions are from (dataset, split, revision, licence); empty where it does not say."""
    found: Callable[[], Mapping[str, str]] | None = getattr(benchmark, "provenance", None)
    return found() if found else {}


def summarise(
    benchmark: Benchmark, examples: Sequence[Example], scores: Sequence[float]
) -> Mapping[str, float]:
    """Numbers of the benchmark in the field's unit: its score first, then one per group and what else it has.

    Args:
        benchmark: what was asked.
        examples: the questions that were answered.
        scores: a score per example.
    """
    own: Callable[..., Mapping[str, float]] | None = getattr(benchmark, "summarise", None)
    if own:
        return own(examples, scores)
    full = full_score(benchmark)
    groups = {name: full * fmean(entries) for name, entries in scores_by_group(examples, scores).items()}
    return {benchmark.metric: full * benchmark.aggregate(scores), **(groups if len(groups) > 1 else {})}


def scores_by_group(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, list[float]]:
    """Group -> scores of its examples, groups in order of appearance."""
    groups: dict[str, list[float]] = {}
    for example, score in zip(examples, scores, strict=True):
        groups.setdefault(example.group, []).append(score)
    return groups


def list_benchmarks() -> list[dict[str, str]]:
    """Name, metric and description of every benchmark, without opening its data."""
    rows = []
    for name in BENCHMARKS:
        found = get_benchmark(name)
        lines = (inspect.getdoc(found) or "").splitlines()
        rows.append(
            {
                "task": name,
                "metric": str(getattr(found, "metric", "")),
                "about": lines[0] if lines else "",
            }
        )
    return rows
