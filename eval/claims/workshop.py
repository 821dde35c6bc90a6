"""What measurements work with: the models that were trained, and answers that are asked once and kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vila_hd.errors import VilaHDError
from vila_hd.utils.config import read_yaml

from ..benchmarks.scenes import SceneBenchmark
from ..conditions import Condition
from ..predict import Task, Work, Workers
from ..runner import task_settings
from ..store import Prediction
from ..subjects import ModelSpec
from ..team import Team
from .claim import Training
from .training import CONFIGS


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured."""

    scenes_4k: int = 300
    """4K scenes that the bundled model is asked about, one question each."""

    scenes: int = 200
    """Small scenes that the trained models are asked about, every sign of each."""

    scenes_whole: int = 50
    """Small scenes that are seen in full resolution, every sign of each."""

    runs: int = 3
    """Timed runs; the median counts."""

    preset: str = "small"
    """Sizes of the tower whose cost is measured; see ``cost.PRESETS``."""

    smoke: bool = False
    """Trainings of two steps with tiny widths: does everything run?"""


SMOKE = Effort(scenes_4k=2, scenes=2, scenes_whole=1, runs=1, preset="tiny", smoke=True)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """One run of ``python -m eval claims``."""

    out: Path

    effort: Effort = field(default_factory=Effort)

    cores: int = 2

    models: Mapping[str, Path] = field(default_factory=dict)
    """Name of a training -> folder of its model."""

    def model(self, training: Training) -> str:
        """Folder of the model that a training made."""
        return str(self.models[training.name])

    def scenes(self, kind: Literal["mark", "where"] = "mark", *, count: int | None = None) -> SceneBenchmark:
        """Held-out scenes like those that the models of ``configs/claims`` are trained on.

        Args:
            kind: what is asked about every sign.
            count: scenes; None: the usual number.
        """
        data = read_yaml(CONFIGS / "_base.yaml")["data"]
        return SceneBenchmark(
            count=self.effort.scenes if count is None else count,
            questions_per_scene=data["num_objects"],
            size=tuple(data["size"]),
            num_objects=data["num_objects"],
            tiers=tuple(data["tiers"]),
            kind=kind,
        )

    def answers(
        self, model: str, benchmark: SceneBenchmark, conditions: Sequence[Condition]
    ) -> dict[str, list[Prediction]]:
        """Predictions by condition, in the order of the benchmark. What was answered is not asked again.

        Raises:
            VilaHDError: the model cannot be loaded, or did not answer a question.
        """
        spec = ModelSpec(name=model)
        picture = hashlib.sha256(benchmark.example(0).load_images()[0].tobytes()).hexdigest()[:16]
        settings = {**task_settings(spec, benchmark), "kind": benchmark.kind, "first_picture": picture}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        path = self.out / "answers" / f"{key}.jsonl"
        task = Task(benchmark=benchmark, conditions=tuple(conditions), path=path, settings=settings)
        with Workers(spec, Work(processes=self.cores, threads=1)) as workers:
            answers = task.answer(workers, Team())
        failed = [entry for entries in answers.values() for entry in entries if entry.error]
        if failed:
            raise VilaHDError(
                f"{len(failed)} questions were not answered, {failed[0].uid} with {failed[0].error}: start "
                f"again to ask them once more (answers: {path})"
            )
        return answers
