"""Questions about held-out 4K scenes (``vila_hd.scenes``), mostly their small marks; exact match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.scenes import (
    TIERS,
    Question,
    Scene,
    SceneConfig,
    answers,
    make_scene,
    questions,
    render,
    split_seeds,
)
from vila_hd.scenes.language import Kind
from vila_hd.scenes.layout import Split
from vila_hd.scenes.marks import Tier
from vila_hd.scenes.questions import far_answers, where_question

from ..metrics.exact_match import exact_match
from ..registry import Example

ABOUT_SIGNS: tuple[Kind, ...] = ("mark", "where")
"""Kinds of questions that there is one of for every sign; of the others there is one per scene."""


@dataclass(frozen=True, kw_only=True)
class SceneBenchmark:
    """Small marks in held-out, drawn 4K scenes, or what can be seen of them from afar.

    ``count`` scenes with ``questions_per_scene`` questions each, about different signs.
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

    kind: Kind = "mark"
    """What to ask for: the mark of a sign, or something that can be seen from afar."""

    name: str = "scenes"
    metric: str = "exact match"
    max_new_tokens: int = 12

    def __post_init__(self) -> None:
        if self.count < 1:
            raise VilaHDError(f"--count {self.count}: use 1 scene or more")
        unknown = sorted(set(self.tiers) - set(TIERS))
        if unknown:
            raise VilaHDError(f"--tier {unknown[0]!r} is unknown: use some of {', '.join(TIERS)}")
        if self.kind not in get_args(Kind):
            raise VilaHDError(f"--kind {self.kind!r} is unknown: use one of {', '.join(get_args(Kind))}")
        most = self.config.num_objects if self.kind in ABOUT_SIGNS else 1
        if not 1 <= self.questions_per_scene <= most:
            limit = f"1 to {most}, one per sign" if most > 1 else f"1, a scene has one about its {self.kind}"
            raise VilaHDError(f"--questions-per-scene {self.questions_per_scene}: use {limit}")
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
        sign = int(np.random.default_rng(seed).permutation(len(scene.objects))[which])
        item = scene.objects[sign]
        asked = self._question(scene, sign, np.random.default_rng(seed))
        x1, y1, x2, y2 = map(float, item.box)
        return Example(
            uid=f"{self.split}-{seed}-{sign}",
            prompt=asked.text,
            load_images=partial(_draw, scene),
            answers=(asked.answer,),
            regions=(((x1, y1, x2, y2),),) if self.kind in ABOUT_SIGNS else (),
            group=item.tier if self.kind == "mark" else self.kind,
        )

    def _question(self, scene: Scene, sign: int, rng: np.random.Generator) -> Question:
        if self.kind == "mark":
            item = scene.objects[sign]
            return Question(text=item.question, answer=item.answer, kind="mark", object_index=sign)
        if self.kind == "where":
            return where_question(scene, sign, rng)
        return next(asked for asked in questions(scene, rng) if asked.kind == self.kind)

    def score(self, example: Example, prediction: str) -> float:
        """1.0 for the right answer, else 0.0."""
        return exact_match(prediction, example.answers)

    def aggregate(self, scores: Sequence[float]) -> float:
        """Share of right answers."""
        return sum(scores) / len(scores)

    def chance(self) -> dict[str, float]:
        """Share of right answers that guessing gives, per group."""
        if self.kind != "mark":
            return {self.kind: 1 / len(far_answers(self.kind))}
        return {tier: 1 / len(answers(tier)) for tier, share in self.config.tiers.items() if share > 0}


def _draw(scene: Scene) -> tuple[Any, ...]:
    return (Image.fromarray(render(scene)),)
