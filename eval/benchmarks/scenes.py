"""Questions about the small marks in held-out 4K scenes (``vila_hd.scenes``), scored by exact match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.scenes import TIERS, Scene, SceneConfig, answers, make_scene, render, split_seeds
from vila_hd.scenes.layout import Split
from vila_hd.scenes.marks import Tier
from vila_hd.scenes.questions import where_question

from ..metrics.exact_match import exact_match
from ..registry import Example


@dataclass(frozen=True, kw_only=True)
class SceneBenchmark:
    """Small marks in held-out, drawn 4K scenes.

    ``count`` scenes with ``questions_per_scene`` questions about a mark each.
    """

    count: int = 200
    """Scenes."""

    questions_per_scene: int = 1

    split: Split = "test"

    tiers: tuple[Tier, ...] = ()
    """Kinds of marks on the signs, in equal shares; empty: the generator's default mixture."""

    size: tuple[int, int] = SceneConfig.size
    """Width and height of the pictures in pixels."""

    num_objects: int = SceneConfig.num_objects
    """Signs in each."""

    kind: Literal["mark", "where"] = "mark"
    """Ask for the marks on signs, or for the part of the picture that they are in."""

    name: str = "scenes"
    metric: str = "exact match"
    max_new_tokens: int = 12

    def __post_init__(self) -> None:
        if self.count < 1:
            raise VilaHDError(f"--count {self.count}: use 1 scene or more")
        unknown = sorted(set(self.tiers) - set(TIERS))
        if unknown:
            raise VilaHDError(f"--tier {unknown[0]!r} is unknown: use some of {', '.join(TIERS)}")
        most = self.config.num_objects
        if not 1 <= self.questions_per_scene <= most:
            raise VilaHDError(
                f"--questions-per-scene {self.questions_per_scene}: use 1 to {most}, one per sign"
            )
        split_seeds(self.split, self.count)

    @property
    def config(self) -> SceneConfig:
        """What the scenes have in common."""
        config = SceneConfig(size=self.size, num_objects=self.num_objects)
        return replace(config, tiers=dict.fromkeys(self.tiers, 1.0)) if self.tiers else config

    def __len__(self) -> int:
        return self.count * self.questions_per_scene

    def example(self, index: int) -> Example:
        """The question ``index``; questions of one scene are neighbours."""
        number, which = divmod(index, self.questions_per_scene)
        seed = split_seeds(self.split, 1, start=number)[0]
        scene = make_scene(seed, self.config)
        # Seeded by the scene, not by a running generator: any shard finds the same questions.
        order = np.random.default_rng(seed).permutation(len(scene.objects))
        item = scene.objects[int(order[which])]
        x1, y1, x2, y2 = item.box
        question, answer = item.question, item.answer
        if self.kind == "where":
            asked = where_question(scene, int(order[which]), np.random.default_rng(seed))
            question, answer = asked.text, asked.answer
        return Example(
            uid=f"{self.split}-{seed}-{int(order[which])}",
            prompt=question,
            load_images=partial(_draw, scene),
            answers=(answer,),
            regions=(((float(x1), float(y1), float(x2), float(y2)),),),
            group=item.tier,
        )

    def score(self, example: Example, prediction: str) -> float:
        """1.0 for the right answer, else 0.0."""
        return exact_match(prediction, example.answers)

    def aggregate(self, scores: Sequence[float]) -> float:
        """Share of right answers."""
        return sum(scores) / len(scores)

    def chance(self) -> dict[str, float]:
        """Share of right answers that guessing gives, per tier."""
        return {tier: 1 / len(answers(tier)) for tier, share in self.config.tiers.items() if share > 0}


def _draw(scene: Scene) -> tuple[Any, ...]:
    return (Image.fromarray(render(scene)),)
