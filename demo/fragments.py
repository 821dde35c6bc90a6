"""Pieces of HTML around the chat and the lens. Everything that a person or a model wrote is escaped."""

import html
from collections.abc import Mapping

from vila_hd.lens.page import receipt_row
from vila_hd.lens.tiles import answer_tiles
from vila_hd.receipt import PHASES

from .conversation import cost_line
from .costs import Cost
from .sessions import Session, Settings, Turn

SHADES = {"read": 1, "low_res": 2, "choose": 3, "high_res": 4, "language": 5}
"""Phase -> its colour in style.css."""


def heading(name: str) -> str:
    """The line on top of the page."""
    return (
        '<header class="brand"><h1>VILA-HD</h1>'
        "<p>Sees the whole picture once, then looks closely only where your question needs it.</p>"
        f'<span class="model" title="the model that answers">{html.escape(name)}</span></header>'
    )


def caption(turn: Turn | None, *, example: bool = False, cost: bool = False) -> str:
    """What a viewer shows: question, answer, and how closely was looked.

    Args:
        turn: None and one without an answer say nothing.
        example: nobody asked this.
        cost: add what the answer cost.
    """
    if turn is None or turn.answer is None:
        return ""
    kind = '<span class="kind">Example</span>' if example else ""
    guide = {"prompt": "guided by the question", "saliency": "guided by the picture alone"}[
        turn.settings.guide
    ]
    paid = f'<p class="paid">{html.escape(cost_line(turn.answer.receipt))}</p>' if cost else ""
    return (
        f'<div class="caption">{kind}<p class="asked" dir="auto">{html.escape(turn.question)}</p>'
        f'<p class="said" dir="auto">{html.escape(turn.answer.text)}</p>'
        f'<p class="how">{html.escape(_how(turn.settings, guide))}</p>{paid}</div>'
    )


def _how(settings: Settings, guide: str) -> str:
    if not settings.budget:
        return "low resolution only"
    where = "inside your box, " if settings.box else "on top of the answer before, " if settings.keep else ""
    return f"{where}{guide}, budget {settings.budget:,}"


def details(session: Session, turn: Turn | None) -> str:
    """Numbers of one answer: how much it saw, what that took, and where the seconds went."""
    if turn is None or turn.answer is None:
        return ""
    answer = turn.answer
    numbers = answer_tiles(answer.looks, answer.receipt) if answer.looks else []
    tiles = "".join(
        f"<li><b>{html.escape(value)}</b><span>{html.escape(label)}</span></li>" for value, label in numbers
    )
    rows = "".join(receipt_row(line) for line in answer.receipt.lines())
    report = ""
    if answer.looks:
        address = f"lens/{session.token}/report-{turn.number}.html"
        report = f'<a class="report" href="{address}" download>Download this answer as a page</a>'
    return (
        f'<div class="details"><ul class="tiles">{tiles}</ul>{_phases(answer.receipt.seconds)}'
        f'<div class="last"><details><summary>Receipt</summary><table>{rows}</table></details>{report}</div>'
        "</div>"
    )


def _phases(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    known = [(key, word, seconds[key]) for key, word in PHASES.items() if key in seconds]
    bars = "".join(
        f'<i class="shade{SHADES[key]}" style="flex-grow:{max(value / total, 0.004):.4f}"></i>'
        for key, _, value in known
    )
    legend = "".join(
        f'<li><i class="shade{SHADES[key]}"></i>{html.escape(word)} <b>{value:.2f} s</b></li>'
        for key, word, value in known
    )
    return f'<div class="phases"><div class="bar" aria-hidden="true">{bars}</div><ul>{legend}</ul></div>'


def welcome() -> str:
    """What an empty conversation says."""
    return "### Ask about a picture\nAdd your own, or begin with one of these 3840 x 2160 scenes."


def box_words(session: Session) -> str:
    """What the next question looks closer at; empty without a box."""
    if session.box is None:
        return ""
    x1, y1, x2, y2 = session.box[1]
    return f"<p><b>Box</b> {x2 - x1:,.0f} x {y2 - y1:,.0f} px: the next question looks closer there only.</p>"


def cost(price: Cost) -> str:
    """What the next question costs."""
    kind = "" if price.fits else ' class="toomuch"'
    return f'<p{kind} role="status">{html.escape(price.words())}</p>'


def writing(turn: Turn) -> str:
    """An answer that is not complete yet."""
    return f'<p><span class="waiting">{html.escape(turn.text) or "looking"}</span></p>'


def remark(text: str) -> str:
    """Something that a person should know."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def problem(text: str) -> str:
    """Something that went wrong, where no chat message can tell it."""
    return f'<div class="problem" role="alert">{html.escape(text)}</div>' if text else ""
