"""A conversation as the text that its chat template makes of it, with the place of every message's words.

Places are found by rendering a second time with marks around the words, never by searching for the words:
an answer may occur in the question, a template may trim white space, and a user may write what looks like
template text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .constants import IMAGE_TOKEN
from .errors import VilaHDError

ROLES = ("system", "user", "assistant")
"""Roles that a message may have."""

PRIVATE_USE = range(0xE000, 0xF900)
"""Characters without a meaning of their own; marks are made of those that the conversation does not use."""

Chat = Sequence[Mapping[str, Any]]
"""Messages: ``role``, and ``content`` that is a text or a list of ``{"type": "image"}`` and
``{"type": "text", "text": ...}``."""

Render = Callable[[list[dict[str, Any]], bool], str]
"""``(messages, with generation prompt) -> text``: the chat template."""

Span = tuple[int, int]
"""Characters ``start`` to ``stop`` (exclusive) of the rendered text."""


@dataclass(frozen=True)
class Reply:
    """Where one answer stands."""

    message: int
    """Index of the message."""

    start: int
    """Character at which a model begins to write: the end of the generation prompt."""

    stop: int
    """Character after the answer's last."""

    limit: int
    """Character before which the turn ends: the next message's first, or the end of the text."""


@dataclass(frozen=True)
class RenderedChat:
    """The text of a conversation and what stands where."""

    text: str
    spans: tuple[Span, ...]
    """Words that people or models wrote; everything else is the template's."""

    replies: tuple[Reply, ...]
    """One per assistant message."""

    lost: tuple[str, ...]
    """Words whose place is not known: the template cuts pieces out of them."""


@dataclass(frozen=True)
class _Words:
    """One text of one message."""

    message: int
    number: int
    """Counted through the whole conversation."""

    text: str


def check_chat(messages: Chat, *, literal: bool = False) -> list[dict[str, Any]]:
    """The messages as plain dictionaries of ``role`` and ``content``.

    Args:
        messages: see ``Chat``.
        literal: texts may contain ``<image>``: whoever tokenises them takes it as ordinary characters.

    Raises:
        VilaHDError: no messages, an unknown role or content of another form.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise VilaHDError(f"conversation {messages!r:.60}: give a list of messages with role and content")
    return [_check_message(message, f"message {i}", literal) for i, message in enumerate(messages)]


def _check_message(message: Any, where: str, literal: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise VilaHDError(f"{where} is {message!r:.60}: give a mapping with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise VilaHDError(f"{where}: role {role!r:.60} is not known; use one of {', '.join(ROLES)}")
    if isinstance(content, str):
        return {"role": role, "content": _check_text(content, where, literal)}
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise VilaHDError(f"{where}: content {content!r:.60}; give a text, or a list of image and text items")
    items: list[dict[str, str]] = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "image" and role == "assistant":
            raise VilaHDError(
                f"{where} (assistant): an answer cannot hold a picture; show it in the question"
            )
        if kind == "image":
            items.append({"type": "image"})
        elif kind == "text" and isinstance(item.get("text"), str):
            items.append({"type": "text", "text": _check_text(item["text"], where, literal)})
        else:
            raise VilaHDError(
                f"{where}: content item {item!r:.60}; use {{'type': 'image'}} or "
                "{'type': 'text', 'text': ...}"
            )
    return {"role": role, "content": items}


def _check_text(text: str, where: str, literal: bool) -> str:
    if IMAGE_TOKEN in text and not literal:
        raise VilaHDError(
            f"{where}: the text contains {IMAGE_TOKEN}, which stands for a picture; make the content a list "
            "with an item {'type': 'image'} in its place"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VilaHDError(
            f"{where}: character {error.start} of the text is half of a surrogate pair "
            f"({text[error.start]!r}); repair the encoding of the text"
        ) from error
    return text


def count_images(messages: Sequence[Mapping[str, Any]]) -> int:
    """Image items of checked messages."""
    return sum(
        item["type"] == "image"
        for m in messages
        if not isinstance(m["content"], str)
        for item in m["content"]
    )


def render_chat(render: Render, messages: list[dict[str, Any]]) -> RenderedChat:
    """Render checked messages and find every text and every answer.

    Raises:
        VilaHDError: the template fails, drops or repeats an answer, or treats texts in a way that cannot be
            followed.
    """
    text = render(messages, False)
    words = _words_of(messages)
    opens, closes = _find(render, messages, words, text)
    spans = {
        w.number: (opens[w.number], closes[w.number]) for w in words if w.number in opens & closes.keys()
    }
    replies = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        own = [w.number for w in words if w.message == index]
        start = _reply_start(render, messages[:index], text, opens.get(own[0]) if own else None)
        stop = closes.get(own[-1]) if own else None
        if start is None or stop is None or stop < start:
            raise VilaHDError(
                f"message {index} (assistant): the chat template drops it, repeats it or cuts it to pieces, "
                "so its labels have no place; use another template, or a shorter conversation"
            )
        others = [opens[w.number] for w in words if w.message != index and w.number in opens]
        limit = min((place for place in others if place >= stop), default=len(text))
        replies.append(Reply(index, start, stop, limit))
    lost = tuple(w.text for w in words if w.number not in spans)
    return RenderedChat(text, tuple(sorted(spans.values())), tuple(replies), lost)


def _words_of(messages: list[dict[str, Any]]) -> list[_Words]:
    words: list[_Words] = []
    for index, message in enumerate(messages):
        content = message["content"]
        texts = [content] if isinstance(content, str) else [i["text"] for i in content if i["type"] == "text"]
        for text in texts:
            words.append(_Words(index, len(words), text))
    return words


def _find(
    render: Render, messages: list[dict[str, Any]], words: list[_Words], text: str
) -> tuple[dict[int, int], dict[int, int]]:
    """Number of a text -> character of ``text`` at which it begins, and at which it ends.

    A number is missing where the template drops or repeats the mark.
    """
    used = set(text).union(*(set(w.text) for w in words))
    free = list(islice((chr(code) for code in PRIVATE_USE if chr(code) not in used), 3))
    if len(free) < 3:
        raise VilaHDError("the conversation uses every private character of Unicode: it is not text")
    begin, end, last = free
    # First around all of a text. A template that trims would stop trimming; then around all but the white
    # space at its ends.
    for trims in (False, True):
        marked = []
        for w in words:
            core = w.text.strip() if trims else w.text
            before, _, after = w.text.partition(core) if core else (w.text, "", "")
            marked.append(f"{before}{begin}{w.number}{last}{core}{end}{w.number}{last}{after}")
        result = render(_replace(messages, marked), False)
        plain, opens, closes = _read_marks(result, begin, end, last)
        if plain == text:
            return opens, closes
    raise VilaHDError(
        "the chat template treats a message by what is written in it (its length, its start, whether it is "
        "empty), so the place of its words cannot be followed; use another template"
    )


def _replace(messages: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """``messages`` with other texts, in order."""
    rest = iter(texts)
    return [
        {
            "role": m["role"],
            "content": next(rest)
            if isinstance(m["content"], str)
            else [{**item, "text": next(rest)} if item["type"] == "text" else item for item in m["content"]],
        }
        for m in messages
    ]


def _read_marks(marked: str, begin: str, end: str, last: str) -> tuple[str, dict[int, int], dict[int, int]]:
    """The text without marks, and the places of those that occur exactly once."""
    pieces: list[str] = []
    length = position = 0
    places: dict[tuple[str, int], list[int]] = {}
    for match in re.finditer(f"([{begin}{end}])([0-9]+){last}", marked):
        pieces.append(marked[position : match.start()])
        length += match.start() - position
        position = match.end()
        places.setdefault((match[1], int(match[2])), []).append(length)
    pieces.append(marked[position:])
    opens, closes = (
        {number: where[0] for (mark, number), where in places.items() if mark == kind and len(where) == 1}
        for kind in (begin, end)
    )
    return "".join(pieces), opens, closes


def _reply_start(render: Render, before: list[dict[str, Any]], text: str, opened: int | None) -> int | None:
    """Where a model would begin to write: after the generation prompt if that is how ``text`` goes on, else
    at the answer's first character.

    What a template puts between the two (an empty ``<think>`` block, the space after ``ASSISTANT:``) must be
    written by the model, so it is part of the answer.
    """
    if not any(message["role"] == "user" for message in before):
        return opened
    prompt = render(before, True)
    if not text.startswith(prompt):
        return opened
    if opened is None or not text[len(prompt) : opened].strip():
        return len(prompt)
    # Words in between: the model's to write only if the template knows generation prompts at all.
    return len(prompt) if prompt != render(before, False) else opened
