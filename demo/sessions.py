"""Conversations: what belongs to one person, and files that go away with it."""

import math
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vila_hd import Answer, VilaHDError
from vila_hd.generation import History
from vila_hd.options import Box

from .pictures import Limits, Picture

Guide = Literal["prompt", "saliency"]


@dataclass(frozen=True)
class Settings:
    """How closely to look, as the person set it for one question."""

    budget: int
    """High-resolution patches per picture."""

    guide: Guide = "prompt"
    """What chooses them."""

    box: Box | None = None
    """Look closer here only, in pixels of the picture numbered ``boxed``."""

    boxed: int = 0
    """Number of the picture in the conversation, from 0."""

    keep: bool = False
    """Look on top of what the answer before saw; with a box always."""


@dataclass
class Turn:
    """One question and what came of it."""

    number: int
    """Unique in its session, also after earlier turns were asked again."""

    question: str
    pictures: Sequence[Picture]
    """Pictures that came with the question."""

    settings: Settings
    text: str = ""
    """The answer as far as it is written."""

    answer: Answer | None = None
    error: str = ""
    """Why there is no answer."""

    stopped: bool = False
    before: History | None = None
    """The conversation that the question continues ..."""

    known: Sequence[Picture] = ()
    """... and its pictures."""

    suggestions: Sequence[str] = ()
    """Questions to go on with."""

    @property
    def added(self) -> int | None:
        """Patches on top of those of the answer before; None: the answer started afresh."""
        if self.answer is None or not any(look.kept for look in self.answer.receipt.looks):
            return None
        return sum(look.num_chosen - look.kept for look in self.answer.receipt.looks)


@dataclass
class Session:
    """One conversation."""

    token: str
    """Unguessable; who knows it may see the session's pictures."""

    folder: Path
    used: float
    """When something last happened here."""

    turns: list[Turn] = field(default_factory=list)
    attached: dict[Path, list[Picture]] = field(default_factory=dict)
    """Files that were added but not asked about yet, with their pictures."""

    shown: Turn | None = None
    """The turn that the lens shows."""

    variant: Turn | None = None
    """The last answer that was made to compare with another; not part of the conversation."""

    box: tuple[int, Box] | None = None
    """Picture of the viewer (from 0) and the part of it that the person marked."""

    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    """Turns so far, removed ones included."""

    attaching: threading.Lock = field(default_factory=threading.Lock)
    """Held while files are added: two events of one page may come at once."""

    _busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def waiting(self) -> list[Picture]:
        """Pictures that were added but not asked about yet."""
        return [picture for pictures in self.attached.values() for picture in pictures]

    @property
    def history(self) -> History | None:
        """The conversation as the library knows it: up to the last turn with an answer."""
        return next((turn.answer.history for turn in reversed(self.turns) if turn.answer), None)

    @property
    def asked_pictures(self) -> list[Picture]:
        """Pictures of the conversation that the model has seen, in its order."""
        return [picture for turn in self.turns if turn.answer for picture in turn.pictures]

    def turn(self, number: int) -> Turn:
        """The turn with this number.

        Raises:
            VilaHDError: it is gone.
        """
        known = [*self.turns, *([self.variant] if self.variant else [])]
        found = next((turn for turn in known if turn.number == number), None)
        if found is None:
            raise VilaHDError("this answer is gone: it was asked again or the conversation was cleared")
        return found

    @contextmanager
    def working(self) -> Iterator[None]:
        """Nothing else is asked here meanwhile.

        Raises:
            VilaHDError: something is.
        """
        if not self._busy.acquire(blocking=False):
            raise VilaHDError("the last question is still being answered: wait for it or stop it")
        try:
            self.stop.clear()
            yield
        finally:
            self._busy.release()


class Sessions:
    """All conversations of one process, each with a folder that goes away with it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._all: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def open(self, *, forever: bool = False) -> Session:
        """A new conversation; those that were idle for too long, or the idlest beyond the limit, go.

        Args:
            forever: it is never idle.
        """
        token = secrets.token_urlsafe(18)
        folder = self._folder / token
        folder.mkdir(parents=True)
        session = Session(token, folder, used=math.inf if forever else time.monotonic())
        with self._lock:
            self._all[token] = session
            by_age = sorted(self._all.values(), key=lambda each: each.used)
            oldest = time.monotonic() - 60 * self._limits.idle_minutes
            surplus = len(by_age) - self._limits.sessions
            gone = [each for at, each in enumerate(by_age) if at < surplus or each.used < oldest]
        for each in gone:
            self.close(each.token)
        return session

    def find(self, token: str | None) -> Session:
        """The conversation with this token.

        Raises:
            VilaHDError: there is none (any more).
        """
        session = self._all.get(token or "")
        if session is None:
            raise VilaHDError(
                "this conversation has ended (it was idle, or the demo was restarted): reload the page"
            )
        session.used = max(session.used, time.monotonic())
        return session

    def close(self, token: str | None) -> None:
        """Stop what the conversation is doing and remove its files; nothing happens when it is gone."""
        with self._lock:
            session = self._all.pop(token or "", None)
        if session is not None:
            session.stop.set()
            shutil.rmtree(session.folder, ignore_errors=True)
