"""What a pre-trained pair of towers reads of signs in held-out scenes, without a language model.

Letters used for shapes in this file:
    L = signs of a picture, A = answers, O = shared output width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vila_hd.options import HighResOptions
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.scenes import Scene, SceneConfig, answers, make_scene, render, split_seeds
from vila_hd.scenes.language import caption
from vila_hd.scenes.layout import Split
from vila_hd.scenes.marks import Tier

from ..answering import box_recall

POOLED = 0.6
"""Side of the part of a sign that is pooled, as in ``configs/claims/pretrain.yaml``."""

GROUP = 16
"""Pictures whose captions a picture is told apart from."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Scores per sign, and per picture. Signs of a picture are neighbours."""

    own: tuple[float, ...]
    """Right marks, read from what the caption without the mark chose."""

    given: tuple[float, ...]
    """Right marks where the sign is given."""

    recall: tuple[float, ...]
    """Share of the sign's finest patches that the caption without the mark chose."""

    whole: tuple[float, ...]
    """Pictures whose own caption fits them best among those of 16 pictures, by the low resolution alone."""

    def per_picture(self) -> list[float]:
        """Mean over a picture's questions: one about each sign, and one about the whole."""
        signs = len(self.own) // len(self.whole)
        return [
            (sum(self.own[i * signs : (i + 1) * signs]) + whole) / (signs + 1)
            for i, whole in enumerate(self.whole)
        ]


def held_out(count: int, config: SceneConfig, *, split: Split = "test") -> Iterator[tuple[Scene, Tensor]]:
    """Scenes that nothing was trained on, and their pixels ``(3, height, width)`` uint8."""
    for seed in split_seeds(split, count):
        scene = make_scene(seed, config)
        yield scene, torch.from_numpy(render(scene)).permute(2, 0, 1).contiguous()


def shares(scene: Scene, part: float = 1.0) -> Tensor:
    """Boxes of the signs as shares of the picture, ``(L, 4)``, shrunk to ``part`` of their sides."""
    width, height = scene.size
    boxes = torch.tensor(scene.boxes, dtype=torch.float64) / torch.tensor([width, height, width, height])
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * part
    return torch.cat([centre - half, centre + half], dim=1)


def one_each(boxes: Tensor) -> Regions:
    """A region per box."""
    return Regions.from_boxes(list(boxes[:, None]))


class Texts:
    """A pre-trained text tower."""

    def __init__(self, model: PS3Model, tokenizer: PS3Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def __call__(self, wordings: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit vectors ``(A, O)`` of texts, and their prompts."""
        vectors, prompts = self.model.get_text_features(self.tokenizer(list(wordings)))
        return F.normalize(vectors, dim=-1), prompts


def text_tower(folder: str) -> Texts:
    """The text tower of a pre-trained model.

    Raises:
        VilaHDError: the folder holds none.
    """
    model = cast(PS3Model, PS3Model.from_pretrained(folder)).eval()
    return Texts(model, PS3Tokenizer.from_pretrained(folder))


class Reader:
    """A pre-trained model that is asked about scenes."""

    def __init__(self, folder: str) -> None:
        """Open the model of a folder.

        Raises:
            VilaHDError: it is none.
        """
        self.texts = text_tower(folder)
        self.model = self.texts.model
        self._marks: dict[tuple[str, str, Tier], Tensor] = {}

    def marks(self, plate: str, ink: str, tier: Tier) -> Tensor:
        """Unit vectors ``(A, O)`` of the captions of a sign, one per answer."""
        key = plate, ink, tier
        if key not in self._marks:
            wordings = [caption(plate, ink, tier, word) for word in answers(tier)]
            self._marks[key] = self.texts(wordings)[0]
        return self._marks[key]

    @torch.inference_mode()
    def read(self, scenes: Sequence[tuple[Scene, Tensor]], per_scale: tuple[int, ...]) -> Readings:
        """Read all signs.

        Args:
            scenes: with pixels.
            per_scale: patches of each high-resolution scale.
        """
        own: list[float] = []
        given: list[float] = []
        recall: list[float] = []
        lows, texts = [], []
        for scene, pixels in scenes:
            signs = scene.objects
            prompt = self.texts([item.query for item in signs])[1]
            wordings = [self.marks(item.plate, item.ink, item.tier) for item in signs]
            right = [answers(item.tier).index(item.answer) for item in signs]
            for regions, scores in ((None, own), (one_each(shares(scene, POOLED)), given)):
                seen = self.model.vision_model(
                    [pixels],
                    prompt,
                    options=HighResOptions(budget=sum(per_scale), per_scale=per_scale),
                    regions=regions,
                    pool_regions=one_each(shares(scene, POOLED)),
                    look_index=torch.zeros(len(signs), dtype=torch.long),
                    pool=True,
                )
                vectors = F.normalize(seen.pooled_output, dim=-1)
                best = [
                    int((words @ vector).argmax()) for words, vector in zip(wordings, vectors, strict=True)
                ]
                scores += [float(found == wanted) for found, wanted in zip(best, right, strict=True)]
                if regions is None:
                    finest = [look[-1] for look in seen.selection.maps()]
                    recall += [box_recall(m, b, scene.size) for m, b in zip(finest, scene.boxes, strict=True)]
                    lows.append(F.normalize(seen.low.pooled[0], dim=-1))
            texts.append(self.texts([scene.global_caption])[0][0])
        captions = [scene.global_caption for scene, _ in scenes]
        whole = tell_apart(torch.stack(lows), torch.stack(texts), captions)
        return Readings(own=tuple(own), given=tuple(given), recall=tuple(recall), whole=tuple(whole))


def read_held_out(folder: str, per_scale: tuple[int, ...], count: int, config: SceneConfig) -> Readings:
    """What the model of a folder reads of held-out scenes; see ``Reader.read``."""
    return Reader(folder).read(list(held_out(count, config)), per_scale)


def tell_apart(pictures: Tensor, texts: Tensor, captions: Sequence[str]) -> list[float]:
    """1.0 for every picture whose own caption (or an equal one) is the nearest of its group.

    Args:
        pictures: ``(B, O)`` unit vectors.
        texts: ``(B, O)`` those of their captions.
        captions: their wording.
    """
    found = []
    for start in range(0, len(captions), GROUP):
        group = slice(start, start + GROUP)
        best = (pictures[group] @ texts[group].T).argmax(1).tolist()
        words = captions[group]
        found += [float(words[number] == own) for number, own in zip(best, words, strict=True)]
    return found
