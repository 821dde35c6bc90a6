"""Reading the prompts of several questions together, whatever they want to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from ..batches import pad_left
from ..errors import VilaHDError
from ..generation import check_context, look_of
from ..modeling_vila_hd import VilaHDForConditionalGeneration
from ..options import Guide, HighResOptions, Pruning
from ..ps3.encoder import PS3VisionEncoder
from ..ps3.outputs import LowRes
from ..ps3.plans import PassPlan
from ..ps3.regions import Regions
from ..receipt import Look
from ..two_step import Phases, Prefill, region_boxes
from .questions import Picture, Question
from .running_batch import Filled


class Kind(NamedTuple):
    """What questions that are read together must share."""

    with_pictures: bool
    low_res_only: bool
    guided_by: Guide
    smooth: bool
    pruning: Pruning | None


@dataclass(frozen=True, eq=False)
class Read:
    """A question whose prompt was read."""

    prompt_tokens: int
    visual_tokens: int
    looks: tuple[Look, ...]
    """Where the question asks for an explanation."""


class PromptReader:
    """Reads prompts for one model."""

    def __init__(self, model: VilaHDForConditionalGeneration, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id

    def kind(self, question: Question) -> Kind:
        """Questions of one kind can be read together.

        Raises:
            VilaHDError: the model cannot be guided like this, or tokens cannot be pruned like this.
        """
        if not question.pictures:
            return Kind(False, True, "saliency", False, None)
        model = self._model.model
        options = model.resolve_options(question.high_res)
        if options.pruning is not None and options.pruning.in_language_model:
            raise VilaHDError(
                f"pruning {options.pruning}: it would part the rows of a batch; use tome or visionzip here"
            )
        if options.only_regions:
            raise VilaHDError("only_regions: not served; leave it out, boxes come first anyway")
        if options.budget == 0:
            return Kind(True, True, "saliency", False, options.pruning)
        guide: Guide = "prompt" if model.wants_prompt(options) else "saliency"
        guide = "random" if options.guided_by == "random" else guide
        return Kind(True, False, guide, options.smooth, options.pruning)

    def look_at(self, pictures: Sequence[Picture]) -> None:
        """Run the low-resolution pass over pictures that had none yet."""
        new = list(dict.fromkeys(picture for picture in pictures if picture.low_res is None))
        if not new:
            return
        tower = self._model.model.vision_tower
        low = tower.encode_low_res(
            [picture.pixels.to(tower.device) for picture in new], layers=(self._model.config.select_layer,)
        )
        tower.score(low)  # remembers what the selector sees in the pictures, for every later question
        for picture, part in zip(new, low.split(), strict=True):
            picture.low_res, picture.pixels = part, part.pictures[0]

    def check(self, question: Question) -> None:
        """Pass when the options of a question, whose pictures were looked at, fit the model.

        Raises:
            VilaHDError: they do not.
        """
        self._plans([question])
        _regions([question])

    def _plans(self, questions: Sequence[Question]) -> list[PassPlan] | None:
        """Patches of every pass and scale, look by look; None where the tower sees whole pictures."""
        model = self._model.model
        plans: list[PassPlan] = []
        for question in questions:
            options = model.resolve_options(question.high_res)
            if not isinstance(model.vision_tower.vision_model, PS3VisionEncoder):
                return None
            grids = [_low_res(picture).grids[0] for picture in question.pictures]
            plans += model.vision_tower.vision_model.plan(grids, options)
        return plans

    @torch.no_grad()
    def read(self, questions: Sequence[Question], phases: Phases) -> tuple[Filled, list[Read]]:
        """Read the prompts of questions of one kind.

        Raises:
            VilaHDError: a prompt is too long, or an option does not fit.
        """
        ids, mask = pad_left([question.ids for question in questions], self._pad_id)
        device = self._model.model.embedding_device
        ids, mask = ids.to(device), mask.to(device)
        kind = self.kind(questions[0])
        if not kind.with_pictures:
            with phases("language"):
                filled = self._read_text(ids, mask)
            return filled, [Read(len(question.ids), 0, ()) for question in questions]
        pictures = list(dict.fromkeys(p for question in questions for p in question.pictures))
        number = {picture: i for i, picture in enumerate(pictures)}
        owner = torch.tensor([number[p] for question in questions for p in question.pictures])
        prefill = self._model.prefill(
            ids,
            mask,
            [picture.pixels for picture in pictures],
            high_res=HighResOptions(
                budget=0 if kind.low_res_only else "all",  # how many, the plans say
                guided_by=kind.guided_by,
                smooth=kind.smooth,
                pruning=kind.pruning,
            ),
            regions=_regions(questions),
            look_index=owner,
            low_res=LowRes.join([_low_res(picture) for picture in pictures]),
            plans=None if kind.low_res_only else self._plans(questions),
            phases=phases,
        )
        return _filled(prefill), self._describe(prefill, questions, owner.tolist())

    def _read_text(self, ids: Tensor, mask: Tensor) -> Filled:
        cache = DynamicCache(config=self._model.config.text_config)
        if ids.shape[1] > 1:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            embeds = self._model.get_input_embeddings()(ids)
            self._model.model.run_language_model(embeds[:, :-1], mask[:, :-1], positions[:, :-1], cache, True)
        return Filled(cache, mask, ids[:, -1:])

    def _describe(self, prefill: Prefill, questions: Sequence[Question], owner: Sequence[int]) -> list[Read]:
        used = prefill.attention_mask.sum(1).tolist()
        first, found = 0, []
        for question, prompt_tokens in zip(questions, used, strict=True):
            looks = range(first, first + len(question.pictures))
            first = looks.stop
            high_res = sum(prefill.counts[look] for look in looks)
            check_context(self._model, prompt_tokens, high_res)
            visual = high_res + sum(prefill.low_counts[look] for look in looks)
            explained = tuple(
                look_of(self._model, prefill, look, picture=owner[look], original_size=picture.frame)
                for look, picture in zip(looks, question.pictures, strict=True)
                if question.explain
            )
            found.append(Read(prompt_tokens, visual, explained))
        return found


def _low_res(picture: Picture) -> LowRes:
    assert picture.low_res is not None, "look_at comes first"
    return picture.low_res


def _filled(prefill: Prefill) -> Filled:
    return Filled(prefill.cache, prefill.attention_mask, prefill.input_ids[:, -1:])


def _regions(questions: Sequence[Question]) -> Regions | None:
    """The boxes of all questions, one entry per look; None without any."""
    if not any(question.high_res.regions for question in questions):
        return None
    boxes: list[Tensor] = []
    for question in questions:
        count = len(question.pictures)
        sizes = [(height, width) for width, height in (picture.frame for picture in question.pictures)]
        given = question.high_res.regions
        boxes += region_boxes(question.high_res, sizes, count) if given else [torch.zeros(0, 4)] * count
    return Regions.from_boxes(boxes)
