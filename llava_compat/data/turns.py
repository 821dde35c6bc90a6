"""Turns of a data file: their order, and the places of pictures in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vila_hd.constants import IMAGE_TOKEN

from .problems import DataError
from .rows import ImageReference, Message, Role

Convention = Literal["registry", "legacy", "interleaved"]
"""Where pictures go. ``registry``: all in front of the first question, as VILA's registered data sets do;
``legacy``: where ``<image>`` stands, with exactly one line feed after each, or in front of the first question
if it stands nowhere; ``interleaved``: where ``<image>`` stands, the text as it is."""

CONVENTIONS: tuple[Convention, ...] = ("registry", "legacy", "interleaved")


@dataclass(frozen=True)
class Turn:
    """A turn before pictures are in their places."""

    role: Role
    parts: tuple[str | ImageReference, ...]
    """Content in order; ``<image>`` in a text stands for the next picture of the row."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds neither words nor a picture."""
        return not any(isinstance(part, ImageReference) or part.strip() for part in self.parts)

    @property
    def shows_picture(self) -> bool:
        """Whether it holds a picture or a place for one."""
        return any(isinstance(part, ImageReference) or IMAGE_TOKEN in part for part in self.parts)


def check_turns(turns: Sequence[Turn]) -> None:
    """Pass when roles alternate, nothing is empty, and only questions show pictures.

    Raises:
        DataError: which turn is wrong.
    """
    first = int(turns[0].role == "system")
    for number, turn in enumerate(turns[first:], start=first):
        expected = ("user", "assistant")[(number - first) % 2]
        if turn.role != expected:
            raise DataError(
                f"turn {number} is the {turn.role}'s, expected the {expected}'s: after an optional system "
                "message, user (human) and assistant (gpt) take turns; reorder or merge the turns",
                kind="roles",
            )
        if turn.is_empty:
            what = "question" if turn.role == "user" else "answer"
            raise DataError(
                f"turn {number}: the {what} is empty; write one or drop the turn", kind="empty text"
            )
    if len(turns) == first or turns[-1].role != "assistant":
        raise DataError("the last turn is not the assistant's: nothing answers it; remove it", kind="roles")
    for number, turn in enumerate(turns):
        if turn.role != "user" and turn.shows_picture:
            raise DataError(
                f"turn {number} is the {turn.role}'s and holds {IMAGE_TOKEN} or a picture; only questions "
                "show pictures",
                kind="image count",
            )


def place_images(
    turns: Sequence[Turn], images: Sequence[ImageReference], convention: Convention
) -> list[Message]:
    """Messages with every picture in its place.

    Args:
        turns: checked ones.
        images: pictures that the row names apart from its turns.
        convention: where they go.

    Raises:
        DataError: the turns have places for another number of pictures.
    """
    tokens = sum(part.count(IMAGE_TOKEN) for turn in turns for part in turn.parts if isinstance(part, str))
    # Without any place, they belong in front.
    in_front = tokens == 0 and (convention == "registry" or (convention == "legacy" and len(images) == 1))
    if tokens != len(images) and not in_front:
        raise DataError(
            f"{tokens} {IMAGE_TOKEN} token(s) in the questions but {len(images)} picture(s) under image or "
            "images; make the numbers equal",
            kind="image count",
        )
    if convention == "registry":
        return _gather(turns, images)
    if in_front and images:
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        asked = turns[first]
        turns = [*turns[:first], Turn("user", (IMAGE_TOKEN, *asked.parts)), *turns[first + 1 :]]
    return _interleave(turns, images, one_line_feed=convention == "legacy")


def _interleave(
    turns: Sequence[Turn], images: Sequence[ImageReference], *, one_line_feed: bool
) -> list[Message]:
    """Pictures where ``<image>`` stands."""
    waiting = iter(images)
    messages = []
    for turn in turns:
        parts = list(turn.parts)
        if one_line_feed:
            text = "".join(part for part in parts if isinstance(part, str))
            parts = [re.sub(rf"{IMAGE_TOKEN}\n*", f"{IMAGE_TOKEN}\n", text).strip()]
        content: list[str | ImageReference] = []
        for part in parts:
            pieces = _split(part) if isinstance(part, str) else [part]
            content += [next(waiting) if piece == IMAGE_TOKEN else piece for piece in pieces]
        messages.append(Message(turn.role, tuple(content) or ("",)))
    return messages


def _split(text: str) -> list[str]:
    """Pieces of a text, ``<image>`` itself where a picture stands."""
    return [piece for piece in re.split(f"({IMAGE_TOKEN})", text) if piece]


def _gather(turns: Sequence[Turn], images: Sequence[ImageReference]) -> list[Message]:
    """All pictures in front of the first question."""
    waiting = tuple(images)
    messages = []
    for number, turn in enumerate(turns):
        text = "".join(part for part in turn.parts if isinstance(part, str))
        if turn.role != "user":
            messages.append(Message(turn.role, (text,)))
            continue
        # Each with one line feed next to it, as VILA's LLaVADataset removes them.
        text = re.sub(rf"{IMAGE_TOKEN}\n|\n{IMAGE_TOKEN}|{IMAGE_TOKEN}", "", text).strip()
        content: tuple[str | ImageReference, ...] = (*waiting, text) if text else waiting
        waiting = ()
        if not content:
            raise DataError(
                f"turn {number}: nothing is left of the question once its pictures moved to the first one; "
                "write one, or read with --convention interleaved",
                kind="empty text",
            )
        messages.append(Message("user", content))
    return messages
