"""Questions and answers in one call: ``ask`` and ``stream``, with what was looked at and what it cost."""

import copy
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer, TextStreamer

from .configuration_vila_hd import VilaHDConfig
from .errors import VilaHDError
from .images import ImageSource, open_image
from .kept_looks import KeptLooks
from .modeling_vila_hd import VilaHDForConditionalGeneration
from .options import HighResOptions
from .processing_vila_hd import VilaHDProcessor
from .ps3.outputs import LowRes
from .receipt import Look, Receipt, empty_pass_maps
from .two_step import Phases, Prefill

MAX_NEW_TOKENS = 256
"""Longest answer, in tokens, when a call does not say."""


@dataclass(frozen=True, eq=False)
class History:
    """A conversation so far. Hand it to the next ``ask`` to go on."""

    messages: tuple[dict[str, Any], ...] = ()
    """Turns as chat templates read them; pictures are content items."""

    pictures: tuple[Image.Image, ...] = ()
    """All pictures of the conversation, in the order in which they were given, as the looks show them: where
    the image processor pads pictures, each in its square."""

    pixel_values: tuple[Tensor, ...] = field(default=(), repr=False)
    """The same pictures as the tower sees them."""

    low_res: LowRes | None = field(default=None, repr=False)
    """Their low-resolution pass, so that the next question does not repeat it."""

    kept: KeptLooks | None = field(default=None, repr=False)
    """The patches that the last answer looked at, so that the next question can add to them."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a question."""

    text: str
    """The answer, stripped."""

    receipt: Receipt
    """What it cost."""

    looks: tuple[Look, ...] = field(repr=False)
    """What was looked at in each picture of the conversation, in the order of ``history.pictures``."""

    history: History = field(repr=False)
    """The conversation up to and including this answer."""


def ask(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    images: Sequence[ImageSource],
    question: str,
    *,
    high_res: HighResOptions | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    history: History | None = None,
    keep_looks: bool = False,
    generation_config: GenerationConfig | None = None,
) -> Answer:
    """Answer a question about pictures, greedily unless ``generation_config`` says otherwise.

    Args:
        model: from ``load`` or ``compose``.
        processor: its processor.
        images: new pictures, shown before the question; none for a question about earlier ones or about no
            picture.
        question: anything but white space.
        high_res: how closely to look; None: the checkpoint's defaults. Its ``regions`` belong to ``images``,
            or to all pictures of the conversation when there are no new ones.
        max_new_tokens: longest answer.
        history: of an earlier answer, to go on from there.
        keep_looks: show the model also the patches of that answer; the budget is for others. For another look
            at the same pictures, closer or elsewhere: only the new patches are encoded.
        generation_config: sampling, beams, penalties; as in transformers.

    Raises:
        VilaHDError: no question, an unreadable picture, an option that does not fit, or a prompt that is too
        long.
    """
    turn = _Turn(model, processor, images, question, high_res, history, keep_looks=keep_looks)
    ids = turn.run(max_new_tokens, generation_config, None, None)
    return turn.answer(ids)


def stream(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    images: Sequence[ImageSource],
    question: str,
    *,
    high_res: HighResOptions | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    history: History | None = None,
    keep_looks: bool = False,
    generation_config: GenerationConfig | None = None,
    stop: threading.Event | None = None,
) -> Iterator[str | Answer]:
    """As ``ask``, but yields pieces of text as they are written, and the ``Answer`` at the end.

    Leaving the iteration early stops the model after its current token. Setting ``stop`` does so, too, and
    the ``Answer`` with what was written until then still comes.
    """
    turn = _Turn(model, processor, images, question, high_res, history, keep_looks=keep_looks)
    pieces: queue.SimpleQueue[str | Tensor | BaseException] = queue.SimpleQueue()
    stop = stop or threading.Event()

    def work() -> None:
        try:
            streamer = _PieceStreamer(processor.tokenizer, pieces)
            pieces.put(turn.run(max_new_tokens, generation_config, streamer, stop))
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            pieces.put(error)

    thread = threading.Thread(target=work, name="vila-hd-answer", daemon=True)
    thread.start()
    try:
        while True:
            piece = pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            if isinstance(piece, Tensor):
                yield turn.answer(piece)
                return
            yield piece
    finally:
        stop.set()
        thread.join()


class _Turn:
    """One question on its way to its answer."""

    def __init__(
        self,
        model: VilaHDForConditionalGeneration,
        processor: VilaHDProcessor,
        images: Sequence[ImageSource],
        question: str,
        high_res: HighResOptions | None,
        history: History | None,
        *,
        keep_looks: bool,
    ) -> None:
        if not isinstance(question, str) or not question.strip():
            raise VilaHDError(f"question {question!r} is empty: ask something")
        if isinstance(images, str | bytes) or not isinstance(images, Sequence):
            raise VilaHDError(f"images={type(images).__name__}: give a list of pictures, [] for none")
        self.model, self.processor = model, processor
        self.before = history or History()
        if keep_looks and (images or not self.before.pictures):
            raise VilaHDError(
                f"keep_looks=True with {len(images)} new picture(s) and {len(self.before.pictures)} earlier "
                "one(s): use it for questions about earlier pictures only"
            )
        self.kept = self.before.kept if keep_looks else None
        self.phases = Phases(model.device)
        with self.phases("read"):
            opened = [open_image(image) for image in images]
            new = [processor.image_processor.frame(picture) for picture in opened]
            self.pictures = (*self.before.pictures, *new)
            self.pixel_values = (*self.before.pixel_values, *self._read(new))
        self.high_res = self._options(high_res, opened)
        items = [{"type": "image"} for _ in new]
        message = {"role": "user", "content": [*items, {"type": "text", "text": question}]}
        self.messages = (*self.before.messages, message)
        prompt = processor.apply_chat_template(list(self.messages), add_generation_prompt=True)
        if prompt.count(processor.image_token) != len(self.pictures):
            raise VilaHDError(
                f"the conversation has {len(self.pictures)} picture(s), but "
                f"{prompt.count(processor.image_token)} "
                f"{processor.image_token} placeholders: do not write {processor.image_token} in a question"
            )
        # The template writes the begin-of-text token itself where the model wants one.
        ids = processor.encode(prompt, add_special_tokens=False)
        self.input_ids = torch.tensor([ids], device=model.device)
        self.prefill: Prefill | None = None

    def _read(self, pictures: list[Image.Image]) -> list[Tensor]:
        if not pictures:
            return []
        return list(self.processor.image_processor(pictures, return_tensors=None)["pixel_values"])

    def _options(self, options: HighResOptions | None, new: list[Image.Image]) -> HighResOptions | None:
        """``options`` with one list of regions for every picture of the conversation, placed in its frame."""
        if options is None or not options.regions or len(options.regions) != len(new):
            return options  # a wrong number is reported together with the number of pictures
        placed = []
        for boxes, picture in zip(options.regions, new, strict=True):
            x, y = self.processor.image_processor.frame_offset(picture.height, picture.width)
            placed.append(tuple((x1 + x, y1 + y, x2 + x, y2 + y) for x1, y1, x2, y2 in boxes))
        return replace(options, regions=((),) * (len(self.pictures) - len(new)) + tuple(placed))

    @torch.no_grad()
    def run(
        self,
        max_new_tokens: int,
        generation_config: GenerationConfig | None,
        streamer: BaseStreamer | None,
        stop: threading.Event | None,
    ) -> Tensor:
        """``(new,)`` ids of the answer."""
        config = complete_config(self.model, self.processor, max_new_tokens, generation_config)
        settings: dict[str, Any] = {"generation_config": config}
        if stop is not None:
            settings["stopping_criteria"] = StoppingCriteriaList([_StopWhenSet(stop)])
        if not self.pictures:
            with self.phases("language"):
                ids = self.model.generate(self.input_ids, streamer=streamer, **settings)
            return ids[0, self.input_ids.shape[1] :]
        sizes = torch.tensor([(picture.height, picture.width) for picture in self.pictures])
        self.prefill = self.model.prefill(
            self.input_ids,
            None,
            self.pixel_values,
            image_sizes=sizes,
            high_res=self.high_res,
            low_res=self._known_low_res(),
            kept=self.kept,
            phases=self.phases,
        )
        used = int(self.prefill.attention_mask.sum())
        check_context(self.model, used, sum(self.prefill.counts))
        with self.phases("language"):
            ids = self.model.generate_from(self.prefill, self.input_ids, streamer=streamer, **settings)
        return ids[0, self.input_ids.shape[1] :]

    def _known_low_res(self) -> LowRes | None:
        """The low-resolution pass of the last answer, where it serves this question."""
        known = self.before.low_res
        if known is None or len(known.pictures) != len(self.pictures):
            return None
        # A question at budget 0 kept no keys and values, which a choice needs.
        return known if known.cache or not self.model.config.vision_config.chooses else None

    def answer(self, ids: Tensor) -> Answer:
        """The answer with everything that is known about it."""
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        looks = self._looks()
        visual = len(looks) * self.model.config.low_res_tokens
        receipt = Receipt.from_looks(
            looks,
            prompt_tokens=self.input_ids.shape[1] - visual,
            new_tokens=len(ids),
            seconds=self.phases.seconds,
        )
        said = {"role": "assistant", "content": text}
        history = History(
            messages=(*self.messages, said),
            pictures=self.pictures,
            pixel_values=self.pixel_values,
            low_res=None if self.prefill is None else self.prefill.low_res,
            kept=None if self.prefill is None else self.prefill.kept,
        )
        return Answer(text=text, receipt=receipt, looks=looks, history=history)

    def _looks(self) -> tuple[Look, ...]:
        prefill = self.prefill
        if prefill is None:
            return ()
        kept_passes = 0 if self.kept is None else self.kept.selection.num_passes
        return tuple(
            look_of(self.model, prefill, i, picture=i, original_size=picture.size, kept_passes=kept_passes)
            for i, picture in enumerate(self.pictures)
        )


def look_of(
    model: VilaHDForConditionalGeneration,
    prefill: Prefill,
    look: int,
    *,
    picture: int,
    original_size: tuple[int, int],
    kept_passes: int = 0,
) -> Look:
    """What one look of a prefilled prompt saw.

    Args:
        model: that filled it.
        prefill: what came of it.
        look: number of the run of placeholders.
        picture: number of the picture that it shows.
        original_size: (width, height) of the picture's frame, in pixels.
        kept_passes: see ``Look``.
    """
    config, pixels = model.config, prefill.low_res.pictures[picture]
    scores = torch.zeros(config.low_res_grid, config.low_res_grid)
    maps: Sequence[Tensor] = empty_pass_maps(prefill.low_res.grids[picture])
    if prefill.selection is not None and prefill.scores is not None:
        scores, maps = prefill.scores[look], prefill.selection.pass_maps()[look]
    return make_look(
        config,
        scores,
        maps,
        processed_size=(pixels.shape[2], pixels.shape[1]),
        original_size=original_size,
        low_res_tokens=prefill.low_counts[look],
        high_res_tokens=prefill.counts[look],
        kept_passes=kept_passes,
    )


def make_look(
    config: VilaHDConfig,
    scores: Tensor,
    pass_maps: Sequence[Tensor],
    *,
    processed_size: tuple[int, int],
    original_size: tuple[int, int],
    low_res_tokens: int,
    high_res_tokens: int,
    kept_passes: int = 0,
) -> Look:
    """What a model of ``config`` looked at in one picture.

    Args:
        config: the model's.
        scores: ``(g, g)``.
        pass_maps: per scale ``(rows, columns)``: the pass that chose each patch, 0 for none; empty where the
            picture has no such scale.
        processed_size: see ``Look``, as are the others.
        original_size: see there.
        low_res_tokens: see there.
        high_res_tokens: see there.
        kept_passes: see there.
    """
    vision = config.vision_config
    maps = tuple(entry.to("cpu", torch.int16) for entry in pass_maps if entry.numel())
    return Look(
        scales=vision.scales_of([(entry.shape[0], entry.shape[1]) for entry in maps]),
        low_scale=vision.ps3_scales[0],
        patch_size=vision.patch_size,
        scores=scores.float().cpu(),
        pass_maps=maps,
        processed_size=processed_size,
        original_size=original_size,
        low_res_tokens=low_res_tokens,
        high_res_tokens=high_res_tokens,
        resample=vision.resample,
        kept_passes=kept_passes,
    )


def complete_config(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    max_new_tokens: int,
    config: GenerationConfig | None,
) -> GenerationConfig:
    """A copy of ``config`` with the length, and with the ids that end an answer (a list, None where there are
    none) and pad it: its own, else the checkpoint's, else the tokenizer's.

    Args:
        model: gives what the config leaves open.
        processor: its processor.
        max_new_tokens: longest answer.
        config: how to answer; None: greedily.

    Raises:
        VilaHDError: ``max_new_tokens`` is no number of tokens.
    """
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise VilaHDError(f"max_new_tokens={max_new_tokens!r}: use a number of tokens >= 1")
    sources = [
        source for source in (config, model.generation_config, processor.tokenizer) if source is not None
    ]
    ends, pad = (
        next((found for source in sources if (found := getattr(source, name)) is not None), None)
        for name in ("eos_token_id", "pad_token_id")
    )
    if ends is not None:
        ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        pad = ends[0] if pad is None else pad
    completed = copy.deepcopy(model.generation_config if config is None else config)
    if config is None:
        completed.do_sample, completed.num_beams = False, 1
    completed.max_new_tokens, completed.max_length = max_new_tokens, None
    completed.eos_token_id, completed.pad_token_id = ends, pad
    return completed


def check_context(model: VilaHDForConditionalGeneration, used: int, high_res: int) -> None:
    """Refuse a prompt that the language model cannot read.

    Args:
        model: whose context it must fit.
        used: tokens of the prompt, visual ones included.
        high_res: how many of them are high-resolution tokens.

    Raises:
        VilaHDError: it is too long; names both numbers.
    """
    limit = getattr(model.config.text_config, "max_position_embeddings", None)
    if limit is not None and used > limit:
        raise VilaHDError(
            f"the prompt has {used} tokens, {high_res} of them high-resolution, but the language model reads "
            f"{limit}: use a smaller budget, fewer pictures or a shorter text"
        )


class _PieceStreamer(TextStreamer):
    """Puts finished words into a queue."""

    def __init__(self, tokenizer: Any, pieces: "queue.SimpleQueue[Any]") -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._pieces = pieces

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand on a piece of text."""
        if text:
            self._pieces.put(text)


class _StopWhenSet(StoppingCriteria):
    """Stops after the current token once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """``(rows,)`` bool."""
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
