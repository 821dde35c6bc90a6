"""Many prompts answered at once, on the path that ``ask`` takes with one: for benchmarks and other tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from .errors import VilaHDError
from .generation import MAX_NEW_TOKENS, check_context, complete_config
from .modeling_vila_hd import VilaHDForConditionalGeneration
from .options import HighResOptions
from .processing_vila_hd import VilaHDProcessor


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for its answer."""

    messages: list[dict[str, Any]]
    """As chat templates read them; ``{"type": "image"}`` for every picture."""

    pictures: list[Image.Image]
    """Any number, in the order of the messages."""


class BatchAnswer(NamedTuple):
    """The answer to one prompt of a batch."""

    text: str
    """Stripped, without a text that ended it."""

    prompt_tokens: int
    """Visual ones included."""

    new_tokens: int


class PromptError(VilaHDError):
    """One prompt of a batch cannot be answered."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """Which prompt of the batch, from 0."""


def answer_batch(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    prompts: Sequence[Prompt],
    *,
    high_res: HighResOptions | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    generation_config: GenerationConfig | None = None,
    until: Sequence[str] = (),
) -> list[BatchAnswer]:
    """Answers to prompts that want the same settings.

    Args:
        model: from ``load`` or ``compose``.
        processor: its processor.
        prompts: one or more, with any number of pictures each.
        high_res: how closely to look at every picture; None: the checkpoint's defaults.
        max_new_tokens: longest answer.
        generation_config: see ``ask``.
        until: texts that end an answer and are no part of it.

    Raises:
        PromptError: a prompt is too long, or has a number of placeholders other than that of its pictures.
        VilaHDError: an option that does not fit.
    """
    config = complete_config(model, processor, max_new_tokens, generation_config)
    settings: dict[str, Any] = {"generation_config": config}
    if until:
        stop = StopAtTexts(processor.tokenizer, until)
        settings["stopping_criteria"] = StoppingCriteriaList([stop])
    ends, pad = config.eos_token_id or [], config.pad_token_id or 0
    rows = [_encode(processor, prompt, number) for number, prompt in enumerate(prompts)]
    lengths = [len(row) for row in rows]
    _check_context(model, lengths, rows)  # before anything slow happens
    ids, mask = (part.to(model.device) for part in pad_left(rows, pad))
    pictures = [picture for prompt in prompts for picture in prompt.pictures]
    if pictures:
        pixels = list(processor.image_processor(pictures, return_tensors=None)["pixel_values"])
        prefill = model.prefill(ids, mask, pixels, high_res=high_res)
        lengths = prefill.attention_mask.sum(1).tolist()
        _check_context(model, lengths, rows)
        output = model.generate_from(prefill, ids, **settings)
    else:
        output = model.generate(ids, attention_mask=mask, **settings)
    assert isinstance(output, Tensor)
    new = output[:, ids.shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        BatchAnswer(cut_at(text, until).strip(), used, count_new(row, pad, ends))
        for text, used, row in zip(texts, lengths, new.tolist(), strict=True)
    ]


def _encode(processor: VilaHDProcessor, prompt: Prompt, number: int) -> list[int]:
    text = processor.apply_chat_template(prompt.messages, add_generation_prompt=True)
    if (found := text.count(processor.image_token)) != len(prompt.pictures):
        raise PromptError(
            f"{found} {processor.image_token} placeholder(s) but {len(prompt.pictures)} picture(s): give one "
            "image item per picture",
            number,
        )
    # The template writes the begin-of-text token itself where the model wants one.
    return processor.encode(text, add_special_tokens=False)


def _check_context(
    model: VilaHDForConditionalGeneration, lengths: Sequence[int], rows: Sequence[Sequence[int]]
) -> None:
    for number, (used, row) in enumerate(zip(lengths, rows, strict=True)):
        try:
            check_context(model, used, used - len(row))
        except VilaHDError as error:
            raise PromptError(str(error), number) from error


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """``(ids, mask)``, both ``(rows, longest)`` int64; the mask is 0 at padding."""
    longest = max(len(row) for row in rows)
    ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


class StopAtTexts(StoppingCriteria):
    """Ends a row once its answer holds one of some texts. For one call of ``generate``.

    Differs from ``stop_strings`` of transformers, which also finds a text that begins in the prompt: a line
    feed at the end of a template and another at the start of an answer would make the answer empty.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer, self._texts = tokenizer, tuple(texts)
        self._start: int | None = None
        # A token holds a byte at least; a few more tokens for special ones.
        self._tail = max(len(text.encode()) for text in texts) + 4

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """``(rows,)`` bool."""
        if self._start is None:
            self._start = input_ids.shape[1] - 1  # called first after one new token
        first = max(self._start, input_ids.shape[1] - self._tail)
        tails = self._tokenizer.batch_decode(input_ids[:, first:], skip_special_tokens=True)
        ended = [any(text in tail for text in self._texts) for tail in tails]
        return torch.tensor(ended, device=input_ids.device)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of some texts."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def count_new(ids: Sequence[int], pad_id: int, end_ids: Sequence[int]) -> int:
    """Tokens of an answer, its end among them, without the padding after it."""
    length = len(ids)
    while length and ids[length - 1] == pad_id:
        length -= 1
    return length + int(length < len(ids) and pad_id in end_ids)
