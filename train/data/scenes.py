"""Rendered scenes as training rows. Row ``i`` is a pure function of (config, seed, i), so a run can resume
anywhere."""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vila_hd import scenes
from vila_hd.scenes import language

from ..config import ContrastiveConfig, DataConfig
from .account import Report


@dataclass(frozen=True)
class Picture:
    """One rendered scene."""

    picture_id: int
    """The scene's seed: equal numbers mean equal pictures, over all ranks."""

    pixels: Tensor
    """``(3, height, width)`` uint8."""

    boxes: Tensor
    """``(objects, 4)`` long, xyxy in pixels, of every object."""

    global_caption: str


@dataclass(frozen=True)
class Regions:
    """A picture with sampled objects and their captions: one row of ``ps3_pretrain``."""

    picture: Picture
    boxes: Tensor
    """``(items, 4)`` long, xyxy in pixels."""

    captions: tuple[str, ...]
    swapped: tuple[tuple[str, ...], ...]
    """Per item: its caption with other marks of the same kind, which are wrong."""

    use_global: bool
    """Whether the whole picture is a pair as well."""

    report: Report | None = None
    """What happened while the row was made; None: it was rendered, nothing can."""

    global_swapped: tuple[str, ...] = ()
    """Captions that are wrong for the whole picture."""


@dataclass(frozen=True)
class Questions:
    """A picture with questions: one row of the other stages."""

    picture: Picture
    boxes: Tensor
    """``(looks, turns, 4)`` long, xyxy in pixels; zeros where a question is about no single object."""

    questions: tuple[tuple[str, ...], ...]
    """Per look, what is asked one after the other."""

    answers: tuple[tuple[str, ...], ...]
    own_choice: tuple[bool, ...]
    """Per look: whether the model chooses its patches without being given the box of its first question."""


class ScenePictures:
    """Pictures of a run in order, with a small memory for those that are used again."""

    def __init__(self, config: DataConfig, *, ranks: int = 1) -> None:
        """Plan the order of pictures.

        Args:
            config: what to render.
            ranks: processes that share the rows evenly; each remembers its share of a block.
        """
        self.config = config
        self.scene_config = scenes.SceneConfig(size=config.size, num_objects=config.num_objects)
        if config.tiers is not None:
            self.scene_config = dataclasses.replace(self.scene_config, tiers=config.tiers)
        self.seeds = scenes.SPLITS[config.split]
        self.capacity = -(-config.block_size // ranks) if config.picture_repeats > 1 else 1
        self.memory: OrderedDict[int, tuple[scenes.Scene, Picture]] = OrderedDict()

    def number_of(self, index: int) -> int:
        """Number of the picture that row ``index`` shows: blocks of pictures, each block several times."""
        rows = self.config.block_size * self.config.picture_repeats
        block, place = divmod(index, rows)
        return self.config.first_picture + block * self.config.block_size + place % self.config.block_size

    def get(self, index: int) -> tuple[scenes.Scene, Picture]:
        """Scene and picture of row ``index``."""
        number = self.number_of(index)
        if number not in self.memory:
            while len(self.memory) >= self.capacity:
                self.memory.popitem(last=False)
            self.memory[number] = self._render(self.seeds[number])
        self.memory.move_to_end(number)
        return self.memory[number]

    def _render(self, seed: int) -> tuple[scenes.Scene, Picture]:
        scene = scenes.make_scene(seed, self.scene_config)
        # One copy into channels-first order here saves strided reads in every use of the picture.
        pixels = torch.from_numpy(scenes.render(scene)).permute(2, 0, 1).contiguous()
        boxes = torch.tensor(scene.boxes, dtype=torch.long).view(-1, 4)
        return scene, Picture(seed, pixels, boxes, scene.global_caption)


class _SceneDataset(Dataset):
    """Rows of a run; the sampler goes through them in order."""

    def __init__(self, config: DataConfig, *, rows: int, seed: int, ranks: int = 1) -> None:
        """Plan ``rows`` rows; see :class:`ScenePictures`."""
        self.config = config
        self.rows = rows
        self.seed = seed
        self.pictures = ScenePictures(config, ranks=ranks)

    def __len__(self) -> int:
        return self.rows

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, index))


class RegionDataset(_SceneDataset):
    """Pictures with sampled objects and captions."""

    def __init__(
        self,
        config: DataConfig,
        *,
        rows: int,
        seed: int,
        ranks: int = 1,
        contrast: ContrastiveConfig,
    ) -> None:
        """Plan ``rows`` rows.

        Args:
            config: what to render.
            rows: length.
            seed: of the sampled objects.
            ranks: see :class:`ScenePictures`.
            contrast: rows with a pair for the whole picture, and wrong captions per object.
        """
        super().__init__(config, rows=rows, seed=seed, ranks=ranks)
        self.contrast = contrast

    def __getitem__(self, index: int) -> Regions:
        rng = self._rng(index)
        scene, picture = self.pictures.get(index)
        count = min(self.config.items_per_picture, len(scene.objects))
        chosen = np.sort(rng.choice(len(scene.objects), count, replace=False))
        contrast = self.contrast
        row = Regions(
            picture=picture,
            boxes=picture.boxes[torch.from_numpy(chosen)],
            captions=tuple(scene.objects[i].caption for i in chosen),
            swapped=tuple(swap_mark(scene.objects[i], contrast.swapped_captions, rng) for i in chosen),
            use_global=bool(rng.random() < contrast.global_share),
        )
        if not (row.use_global and contrast.global_instead):
            return row
        whole = dataclasses.replace(row, boxes=row.boxes[:0], captions=(), swapped=())
        if rng.random() >= contrast.close_ups:
            return whole
        item, near = scene.objects[chosen[0]], close_up(picture, row.boxes[0].tolist(), row.captions[0], rng)
        wrong = swap_mark(item, contrast.swapped_captions, rng)
        return dataclasses.replace(whole, picture=near, global_swapped=wrong)


def close_up(picture: Picture, box: Sequence[int], caption: str, rng: np.random.Generator) -> Picture:
    """One object with up to half its size around it, as a picture of its own."""
    x1, y1, x2, y2 = box
    height, width = picture.pixels.shape[1:]
    side = min(int(max(x2 - x1, y2 - y1) * rng.uniform(1.0, 1.5)), height, width)
    left = int(np.clip(rng.integers(x2 - side, x1 + 1), 0, width - side))
    top = int(np.clip(rng.integers(y2 - side, y1 + 1), 0, height - side))
    pixels = picture.pixels[:, top : top + side, left : left + side].contiguous()
    boxes = torch.tensor([[x1 - left, y1 - top, x2 - left, y2 - top]]).clamp(0, side)
    return Picture(picture.picture_id, pixels, boxes, caption)


def swap_mark(item: scenes.SceneObject, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to ``count`` captions of ``item`` with other marks of the same kind."""
    others = [answer for answer in scenes.answers(item.tier) if answer != item.answer]
    chosen = rng.permutation(len(others))[:count]
    return tuple(language.caption(item.plate, item.ink, item.tier, others[i]) for i in chosen)


class QuestionDataset(_SceneDataset):
    """Pictures with looks, each with questions about one object or about the whole."""

    def __init__(
        self,
        config: DataConfig,
        *,
        rows: int,
        seed: int,
        ranks: int = 1,
        own_choice: float = 0.0,
        need_box: bool = False,
    ) -> None:
        """Plan ``rows`` rows.

        Args:
            config: what to render and ask.
            rows: length.
            seed: of the sampled questions.
            ranks: see :class:`ScenePictures`.
            own_choice: share of looks without given box.
            need_box: only questions about one object.
        """
        super().__init__(config, rows=rows, seed=seed, ranks=ranks)
        self.own_choice = own_choice
        self.need_box = need_box

    def __getitem__(self, index: int) -> Questions:
        rng = self._rng(index)
        scene, picture = self.pictures.get(index)
        known = [q for q in scenes.questions(scene, rng) if q.object_index is not None or not self.need_box]
        near = [q for q in known if q.kind == "mark"]
        far = [q for q in known if q.kind != "mark"]
        looks, turns = self.config.items_per_picture, self.config.turns
        num_far = min(int(rng.binomial(looks * turns, self.config.far_share)), len(far))
        order = rng.permutation(len(near))
        asked = [near[order[i % len(near)]] for i in range(looks * turns - num_far)]
        asked += [far[i] for i in rng.permutation(len(far))[:num_far]]
        talks = [
            [asked[start + i] for i in rng.permutation(turns)] for start in range(0, looks * turns, turns)
        ]
        no_box = torch.zeros(4, dtype=torch.long)
        boxes = [
            no_box if q.object_index is None else picture.boxes[q.object_index]
            for talk in talks
            for q in talk
        ]
        return Questions(
            picture=picture,
            boxes=torch.stack(boxes).view(looks, turns, 4),
            questions=tuple(tuple(q.text for q in talk) for talk in talks),
            answers=tuple(tuple(q.answer for q in talk) for talk in talks),
            own_choice=tuple(bool(x) for x in rng.random(looks) < self.own_choice),
        )
