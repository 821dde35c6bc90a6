"""A session as the messages of a chat: texts and file names, never objects."""

import html
from typing import Any

from vila_hd import Receipt
from vila_hd.receipt import format_share

from .sessions import Session, Turn

Message = dict[str, Any]


def messages(session: Session) -> list[Message]:
    """What the chat shows, oldest first."""
    return [message for turn in session.turns for message in _turn_messages(turn)]


def turn_of_message(session: Session, index: int) -> Turn | None:
    """The turn that the message at ``index`` of ``messages`` belongs to; None: there is none."""
    owners = [turn for turn in session.turns for _ in _turn_messages(turn)]
    return owners[index] if 0 <= index < len(owners) else None


def _turn_messages(turn: Turn) -> list[Message]:
    shown: list[Message] = []
    if turn.pictures:
        files = [{"path": str(picture.thumbnail), "alt_text": picture.name} for picture in turn.pictures]
        shown.append({"role": "user", "content": files})
    shown.append({"role": "user", "content": turn.question})
    reply: Message = {"role": "assistant", "content": _reply(turn)}
    if turn.answer and turn.suggestions:
        reply["options"] = [{"value": question} for question in turn.suggestions]
    return [*shown, reply]


def _reply(turn: Turn) -> str:
    if turn.error:
        return f'<div class="problem" role="alert"><b>No answer.</b> {html.escape(turn.error)}</div>'
    if turn.answer is None:
        return turn.text or '<span class="waiting">looking</span>'
    text = turn.answer.text or "*(nothing)*"
    parts = [cost_line(turn.answer.receipt)]
    if turn.added is not None:
        where = "in your box" if turn.settings.box else "for this question"
        closer = f"looked closer {where}: {turn.added:,} patches added to what it saw before"
        parts.insert(0, closer if turn.added else "seen closely already: nothing added")
    if turn.stopped:
        parts.append("stopped")
    return f'{text}\n\n<small class="cost">{html.escape(" · ".join(parts))}</small>'


def cost_line(receipt: Receipt) -> str:
    """The receipt in one short line."""
    seconds = f"{receipt.total_seconds:.2g} s"
    if not receipt.looks:
        return seconds
    areas = [look.original_size[0] * look.original_size[1] for look in receipt.looks]
    seen = sum(area * look.coverage for area, look in zip(areas, receipt.looks, strict=True)) / sum(areas)
    patches = sum(look.num_chosen for look in receipt.looks)
    looked = f"saw {format_share(seen)} closely · {patches:,} patches" if patches else "low-res view only"
    return f"{looked} · {receipt.visual_tokens:,} visual tokens · {seconds}"
