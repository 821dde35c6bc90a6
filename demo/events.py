"""What the parts of the page do: from events to calls of the service, and back to what the parts show."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from vila_hd import VilaHDError

from . import fragments
from .conversation import messages, turn_of_message
from .service import Service
from .sessions import Session, Settings, Turn
from .viewing import show_turn, show_waiting

GUIDES = {"prompt": "My question", "saliency": "Saliency"}
"""What chooses the patches -> what the switch calls it."""

PAUSE = 0.05
"""Seconds between two states of a growing answer: more often, a browser only gets busy."""

Changes = dict[Any, Any]
"""Part of the page -> what it shows from now on; parts that are left out stay as they are."""

Handler = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of the page."""

    token: gr.State
    chat: gr.Chatbot
    notice: gr.HTML
    box_row: gr.Row
    box: gr.HTML
    clear_box: gr.Button
    composer: gr.MultimodalTextbox
    guide: gr.Radio
    keep: gr.Checkbox
    budget: gr.Slider
    cost: gr.HTML
    new: gr.Button
    caption: gr.HTML
    lens: gr.HTML
    details: gr.HTML
    other_question: gr.Textbox
    other_guide: gr.Radio
    other_budget: gr.Slider
    other_cost: gr.HTML
    compare: gr.Button
    versus: gr.Row
    left_caption: gr.HTML
    left_lens: gr.HTML
    right_caption: gr.HTML
    right_lens: gr.HTML

    def outputs(self) -> list[Any]:
        """What events may change."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _tell(handler: Handler) -> Handler:
    """What goes wrong in ``handler`` is told in the page."""

    @functools.wraps(handler)
    def call(self: "Events", *arguments: Any) -> Changes:
        try:
            return handler(self, *arguments)
        except VilaHDError as error:
            return self.problem(error)

    return call


def _tell_while(handler: Handler) -> Handler:
    """The same for a handler that yields."""

    @functools.wraps(handler)
    def call(self: "Events", *arguments: Any) -> Iterator[Changes]:
        try:
            yield from handler(self, *arguments)
        except VilaHDError as error:
            yield self.problem(error)

    return call


class Events:
    """Handlers of the page's events."""

    def __init__(self, service: Service, parts: Parts) -> None:
        self._service, self._parts = service, parts

    def problem(self, error: VilaHDError) -> Changes:
        """Say what went wrong; the next question may come."""
        return {self._parts.notice: fragments.problem(str(error)), self._parts.composer: _ready_to_ask()}

    # ---------------------------------------------------------------- conversations

    def open(self) -> Changes:
        """A new conversation; the lens shows the example until something is asked."""
        parts, session = self._parts, self._service.sessions.open()
        changes: Changes = {
            parts.token: session.token,
            parts.chat: [],
            parts.notice: "",
            parts.composer: _ready_to_ask(value=None),
            parts.versus: gr.Row(visible=False),
            parts.other_budget: 0,
            parts.other_cost: fragments.cost(self._service.cost(session, self._service.budgets[0])),
            **self._box(session),
            **self._cost(session, self._service.default_step),
            parts.budget: self._service.default_step,
        }
        if self._service.showcase is not None:
            changes.update(self._look(*self._service.showcase, example=True))
        return changes

    def start_over(self, token: str | None) -> Changes:
        """Forget this conversation and begin another."""
        self._service.sessions.close(token)
        return self.open()

    # ---------------------------------------------------------------- before a question

    @_tell
    def attach(self, token: str | None, value: dict[str, Any], step: int) -> Changes:
        """Show pictures as soon as they are added."""
        session = self._service.sessions.find(token)
        paths = [Path(file) for file in value["files"]]
        if paths == list(session.attached):
            return {self._parts.notice: gr.skip()}
        remark = self._service.attach(session, paths)
        changes = {
            self._parts.notice: fragments.remark(remark),
            **self._box(session),
            **self._cost(session, step),
        }
        if session.waiting:
            changes |= {self._parts.lens: json.dumps(show_waiting(session))}
            changes |= {self._parts.caption: "", self._parts.details: ""}
        return changes

    @_tell
    def cost(self, token: str | None, step: int) -> Changes:
        """What the next question costs at this budget."""
        return self._cost(self._service.sessions.find(token), step)

    @_tell
    def other_cost(self, token: str | None, step: int) -> Changes:
        """What the answer to compare with costs at this budget."""
        cost = self._service.cost(self._service.sessions.find(token), self._service.budgets[step])
        return {self._parts.other_cost: fragments.cost(cost)}

    @_tell
    def mark(self, token: str | None, event: gr.EventData) -> Changes:
        """Remember the part of a picture that was marked."""
        session = self._service.sessions.find(token)
        x1, y1, x2, y2 = (float(value) for value in event.box)
        session.box = (int(event.picture), (x1, y1, x2, y2))
        return self._box(session)

    @_tell
    def clear_box(self, token: str | None) -> Changes:
        """Forget it again."""
        session = self._service.sessions.find(token)
        session.box = None
        return self._box(session)

    # ---------------------------------------------------------------- questions

    @_tell_while
    def ask(
        self, token: str | None, step: int, guide: Any, keep: bool, value: dict[str, Any]
    ) -> Iterator[Changes]:
        """Answer what was typed."""
        session = self._service.sessions.find(token)
        self._service.attach(session, [Path(file) for file in value["files"]])
        run = partial(self._service.ask, session, value["text"])
        yield from self._answer(session, run, step, guide, keep)

    @_tell_while
    def example(
        self, token: str | None, step: int, guide: Any, keep: bool, event: gr.SelectData
    ) -> Iterator[Changes]:
        """Ask the first question about an example picture."""
        session = self._service.sessions.find(token)
        example = self._service.examples[event.index]
        self._service.attach(session, [example.path])
        run = partial(self._service.ask, session, example.questions[0])
        yield from self._answer(session, run, step, guide, keep)

    @_tell_while
    def suggestion(
        self, token: str | None, step: int, guide: Any, keep: bool, event: gr.SelectData
    ) -> Iterator[Changes]:
        """Ask a suggested question."""
        session = self._service.sessions.find(token)
        run = partial(self._service.ask, session, str(event.value))
        yield from self._answer(session, run, step, guide, keep)

    @_tell_while
    def retry(
        self, token: str | None, step: int, guide: Any, keep: bool, event: gr.RetryData
    ) -> Iterator[Changes]:
        """Ask the same again, with the budget and guide of now."""
        session = self._service.sessions.find(token)
        turn = _turn_at(session, event.index)
        run = partial(self._service.ask_again, session, turn, turn.question)
        yield from self._answer(session, run, step, guide, keep)

    @_tell_while
    def edit(
        self, token: str | None, step: int, guide: Any, keep: bool, event: gr.EditData
    ) -> Iterator[Changes]:
        """Ask the changed question instead."""
        session = self._service.sessions.find(token)
        run = partial(self._service.ask_again, session, _turn_at(session, event.index), str(event.value))
        yield from self._answer(session, run, step, guide, keep)

    def _answer(
        self, session: Session, run: Callable[[Settings], Iterator[Turn]], step: int, guide: Any, keep: bool
    ) -> Iterator[Changes]:
        """Show an answer while it grows, then where it looked."""
        parts = self._parts
        picture, box = session.box or (0, None)
        settings = Settings(self._service.budgets[step], guide, box=box, boxed=picture, keep=keep)
        turn, shown = None, 0.0
        for turn in run(settings):
            if turn.text == "" and not shown:
                yield {parts.chat: messages(session), parts.composer: _busy(), parts.notice: ""}
            elif time.monotonic() - shown > PAUSE:
                yield {parts.chat: messages(session)}
            else:
                continue
            shown = time.monotonic()
        changes = {parts.chat: messages(session), parts.composer: _ready_to_ask()}
        if turn is not None and turn.answer:
            changes |= self._look(session, turn)
        yield {**changes, **self._box(session), **self._cost(session, step)}

    @_tell_while
    def compare(self, token: str | None, step: int, guide: Any, question: str) -> Iterator[Changes]:
        """Answer once more, and show both answers side by side."""
        parts, session = self._parts, self._service.sessions.find(token)
        old = session.shown
        if old is None:
            raise VilaHDError("nothing to compare with yet: ask something first")
        settings = Settings(self._service.budgets[step], guide)
        turn = old
        for turn in self._service.compare(session, old, question, settings):
            yield {parts.other_cost: fragments.writing(turn)}
        yield {
            parts.other_cost: fragments.problem(turn.error),
            parts.versus: gr.Row(visible=not turn.error),
            parts.left_caption: fragments.caption(old, cost=True),
            parts.left_lens: json.dumps({**show_turn(session, old), "fixed": True}),
            parts.right_caption: fragments.caption(turn, cost=True),
            parts.right_lens: json.dumps({**show_turn(session, turn), "fixed": True}),
        }

    @_tell
    def stop(self, token: str | None) -> Changes:
        """End the answer that is being written."""
        self._service.sessions.find(token).stop.set()
        return {self._parts.notice: gr.skip()}

    # ---------------------------------------------------------------- what is shown

    @_tell
    def show(self, token: str | None, event: gr.SelectData) -> Changes:
        """Show where an earlier answer looked."""
        session = self._service.sessions.find(token)
        turn = _turn_at(session, event.index)
        return {self._parts.notice: gr.skip()} if turn.answer is None else self._look(session, turn)

    def _look(self, session: Session, turn: Turn, *, example: bool = False) -> Changes:
        session.shown = turn
        return {
            self._parts.lens: json.dumps(show_turn(session, turn)),
            self._parts.caption: fragments.caption(turn, example=example),
            self._parts.details: fragments.details(session, turn),
        }

    def _box(self, session: Session) -> Changes:
        return {
            self._parts.box_row: gr.Row(visible=session.box is not None),
            self._parts.box: fragments.box_words(session),
        }

    def _cost(self, session: Session, step: int) -> Changes:
        cost = self._service.cost(session, self._service.budgets[step])
        return {self._parts.cost: fragments.cost(cost)}


def _busy() -> Any:
    return gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True)


def _ready_to_ask(**changes: Any) -> Any:
    return gr.MultimodalTextbox(submit_btn=True, stop_btn=False, **changes)


def _turn_at(session: Session, index: Any) -> Turn:
    """The turn of a message of the chat, by the place that an event tells."""
    turn = turn_of_message(session, index if isinstance(index, int) else index[0])
    if turn is None:
        raise VilaHDError("this message is gone: reload the page")
    return turn
