"""What requests of lmms-eval say: messages, how to answer, how closely to look. Knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import PIL.Image

from vila_hd.batches import Prompt
from vila_hd.errors import VilaHDError
from vila_hd.images import open_image
from vila_hd.options import HighResOptions
from vila_hd.utils.logging import get_logger, warn_once

from .media import Image, Video, clean_text, read_picture, read_video

logger = get_logger(__name__)

SAMPLING = ("temperature", "top_p", "top_k")
PASSED_ON = (
    "min_new_tokens",
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "length_penalty",
)
"""Fields of a ``GenerationConfig`` that requests set as they are, next to ``SAMPLING``."""

LOOK_OPTIONS = ("budget", "guided_by", "per_scale", "max_scale", "smooth")
"""Fields of ``HighResOptions`` that requests and model arguments may set."""

KNOWN = {"until", "do_sample", "max_new_tokens", *SAMPLING, *PASSED_ON, *LOOK_OPTIONS}
"""Everything that is read of a request's ``generation_kwargs``."""


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How a request wants to be answered."""

    high_res: HighResOptions
    max_new_tokens: int
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a ``GenerationConfig``."""

    until: tuple[str, ...] = ()
    """Texts that end an answer and are no part of it."""


def read_look_options(values: Mapping[str, Any], defaults: HighResOptions) -> HighResOptions:
    """``defaults`` with what a request or the model arguments change.

    Args:
        values: any of ``LOOK_OPTIONS``; None changes nothing. Numbers of patches per scale are joined by
            ``+``, since commas separate arguments on lmms-eval's command line.
        defaults: see there.

    Raises:
        VilaHDError: a value that means nothing.
    """
    changes = {name: values[name] for name in LOOK_OPTIONS if values.get(name) is not None}
    if "per_scale" in changes:
        changes["per_scale"] = _per_scale(changes["per_scale"])
    if not isinstance(changes.get("smooth", False), bool):
        raise VilaHDError(f"smooth={changes['smooth']!r}: use True or False")
    scale = changes.get("max_scale")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int)):
        raise VilaHDError(f"max_scale={scale!r}: use one of the checkpoint's scales, in pixels")
    if changes.get("guided_by") == "regions":
        raise VilaHDError("guided_by='regions': lmms-eval has no boxes; use 'prompt' or 'saliency'")
    return replace(defaults, **changes)


def _per_scale(value: Any) -> tuple[int, ...]:
    parts = str(value).split("+") if isinstance(value, str | int) else value
    try:
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise VilaHDError(
            f"per_scale={value!r}: use whole numbers joined by '+', one per high-resolution scale"
        ) from None


def read_settings(
    gen_kwargs: Mapping[str, Any],
    defaults: HighResOptions,
    *,
    max_new_tokens: int,
    keep_paragraphs: bool = False,
) -> AnswerSettings:
    """What the ``generation_kwargs`` of a task mean.

    An answer is sampled when ``do_sample`` or a ``temperature`` above 0 says so, and greedy otherwise.
    Settings that are not known are left out, with a warning: tasks carry some for other models.

    Args:
        gen_kwargs: of the request.
        defaults: how closely to look when the request does not say.
        max_new_tokens: longest answer when the request does not say.
        keep_paragraphs: leave out stop texts that are line feeds only. lmms-eval adds one to every task that
            names none, which cuts answers of several paragraphs.

    Raises:
        VilaHDError: a value that means nothing.
    """
    for name in sorted(set(gen_kwargs) - KNOWN):
        warn_once(logger, f"generation_kwargs: {name} is not known here and is left out")
    # As ask does without a config, whatever the checkpoint says.
    generation: dict[str, Any] = {"num_beams": 1}
    generation.update({name: gen_kwargs[name] for name in PASSED_ON if gen_kwargs.get(name) is not None})
    longest = gen_kwargs.get("max_new_tokens")
    temperature = gen_kwargs.get("temperature")
    samples = gen_kwargs.get("do_sample")
    samples = bool(temperature) if samples is None else bool(samples) and temperature != 0
    generation["do_sample"] = samples
    if samples:
        generation.update({name: gen_kwargs[name] for name in SAMPLING if gen_kwargs.get(name) is not None})
    return AnswerSettings(
        high_res=read_look_options(gen_kwargs, defaults),
        max_new_tokens=max_new_tokens if longest is None else longest,
        generation=generation,
        until=_until(gen_kwargs.get("until"), keep_paragraphs),
    )


def _until(value: Any, keep_paragraphs: bool) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(text, str) for text in texts):
        raise VilaHDError(f"until={value!r}: use a text or a list of texts")
    # An empty text would end every answer before its first word.
    return tuple(text for text in texts if text and not (keep_paragraphs and not text.strip("\n")))


def read_chat(messages: Sequence[Mapping[str, Any]], *, system_prompt: str | None, num_frames: int) -> Prompt:
    """The prompt that a task's ``doc_to_messages`` describes.

    Args:
        messages: ``role`` and ``content``: a text, or a list of ``text``, ``image`` and ``video`` items.
        system_prompt: takes the place of the chat's own; None: none is added.
        num_frames: frames of a video.

    Raises:
        VilaHDError: an item of another type, or a file that cannot be read.
    """
    chat: list[dict[str, Any]] = []
    pictures: list[PIL.Image.Image] = []
    for message in messages:
        items, shown = _read_content(message["content"], num_frames)
        chat.append({"role": message["role"], "content": items})
        pictures += shown
    if system_prompt:
        if chat and chat[0]["role"] == "system":
            chat.pop(0)
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    return Prompt(chat, pictures)


def _read_content(content: Any, num_frames: int) -> tuple[list[dict[str, Any]], list[PIL.Image.Image]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    items: list[dict[str, Any]] = []
    pictures: list[PIL.Image.Image] = []
    for part in parts:
        kind: Literal["text", "image", "video"] | Any = part.get("type")
        if kind == "text":
            items.append({"type": "text", "text": clean_text(part["text"])})
            continue
        if kind == "image":
            shown = [_picture(part["url"])]
        elif kind == "video":
            shown = read_video(_video(part["url"]), num_frames=num_frames, fps=0)
        else:
            raise VilaHDError(
                f"content of type {kind!r} is not read: use tasks of texts, pictures and videos"
            )
        pictures += shown
        items += [{"type": "image"} for _ in shown]
    return items, pictures


def _picture(source: Any) -> PIL.Image.Image:
    return read_picture(Image(source)) if isinstance(source, str | Path) else open_image(source)


def _video(source: Any) -> Video:
    if not isinstance(source, str | Path):
        raise VilaHDError(f"video {source!r:.80}: only whole files and folders of frames are read")
    return Video(source)
