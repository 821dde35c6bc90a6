"""Example pictures: scenes that are drawn when the demo starts, so that nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vila_hd.scenes import make_scene, questions, render, split_seeds


@dataclass(frozen=True)
class Example:
    """One drawn picture with questions about it."""

    path: Path
    thumbnail: Path
    questions: Sequence[str]
    """About small marks first, then about what is seen from afar."""

    @property
    def name(self) -> str:
        """How the picture is called in a conversation."""
        return self.path.name


def draw_examples(folder: Path, count: int) -> list[Example]:
    """Draw ``count`` held-out 4K scenes into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, seed in enumerate(split_seeds("test", count), start=1):
        scene = make_scene(seed)
        path = folder / f"scene-{number}.png"
        image = Image.fromarray(render(scene))
        image.save(path, compress_level=1)
        thumbnail = path.with_suffix(".jpg")
        image.resize((480, 270)).save(thumbnail, quality=90)
        known = questions(scene, np.random.default_rng(seed))
        marks = [question.text for question in known if question.kind == "mark"]
        others = [question.text for question in known if question.kind != "mark"]
        found.append(Example(path, thumbnail, [*marks[:3], *others[:1], *marks[3:]]))
    return found
