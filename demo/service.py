"""What the demo does, without any user interface: model calls, limits, and errors as messages."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vila_hd import (
    Answer,
    HighResOptions,
    VilaHDError,
    VilaHDForConditionalGeneration,
    VilaHDProcessor,
    stream,
)

from .costs import Cost, Timings, cost_of, offered_budgets
from .examples import Example
from .pictures import Limits, Picture, take_file
from .sessions import Guide, Session, Sessions, Settings, Turn


class Service:
    """One model and the conversations with it."""

    def __init__(
        self,
        model: VilaHDForConditionalGeneration,
        processor: VilaHDProcessor,
        folder: Path,
        *,
        name: str = "nano",
        limits: Limits | None = None,
        examples: Sequence[Example] = (),
    ) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.limits = limits or Limits()
        self.examples = examples
        self.sessions = Sessions(folder / "sessions", self.limits)
        self.timings = Timings()
        self.context: int | None = getattr(model.config.text_config, "max_position_embeddings", None)
        default = model.config.default_budget or sum(processor.patches_per_pass) or sys.maxsize
        self.budgets = offered_budgets(processor, default, self.context)
        self.guides: tuple[Guide, ...] = ("prompt", "saliency") if model.config.prompt_head else ("saliency",)
        self.showcase: tuple[Session, Turn] | None = None
        self.default_step = min(range(len(self.budgets)), key=lambda at: abs(self.budgets[at] - default))

    # ---------------------------------------------------------------- pictures

    def attach(self, session: Session, paths: Sequence[Path]) -> str:
        """Show these files, and no others, with the next question; returns a remark (may be empty).

        Raises:
            VilaHDError: one of them cannot be read, or there are too many; then nothing changes.
        """
        with session.attaching:
            attached: dict[Path, list[Picture]] = {}
            remarks = []
            for path in paths:
                if path in session.attached:
                    attached[path] = session.attached[path]
                    continue
                attached[path], remark = take_file(path, session.folder, self.limits)
                remarks += [remark] if remark else []
            total = len(session.asked_pictures) + sum(len(pictures) for pictures in attached.values())
            if total > self.limits.pictures:
                most = self.limits.pictures
                raise VilaHDError(
                    f"{total} pictures in one conversation, {most} are allowed: start a new chat"
                )
            if list(attached) != list(session.attached):
                session.box = None
            session.attached = attached
            return " ".join(remarks)

    # ---------------------------------------------------------------- questions

    def ask(self, session: Session, question: str, settings: Settings) -> Iterator[Turn]:
        """Answer a question about the waiting pictures and all earlier ones.

        Yields the turn again and again while its text grows. What goes wrong is in its ``error``. With a box
        and no words, the last question is asked again.

        Raises:
            VilaHDError: the session is still busy with an earlier question.
        """
        with session.working():
            if settings.box and session.turns and not question.strip():
                question = session.turns[-1].question
            pictures, session.attached, session.box = session.waiting, {}, None
            turn = self._begin(session, question, pictures, settings)
            session.turns.append(turn)
            yield from self._run(session, turn)

    def ask_again(self, session: Session, old: Turn, question: str, settings: Settings) -> Iterator[Turn]:
        """Answer ``question`` in the place of ``old``; what came after it is forgotten. Yields as ``ask``."""
        with session.working():
            at = session.turns.index(session.turn(old.number))
            settings = replace(settings, box=old.settings.box, boxed=old.settings.boxed)
            del session.turns[at:]
            turn = self._begin(session, question, old.pictures, settings)
            session.turns.append(turn)
            session.box = None
            yield from self._run(session, turn)

    def compare(self, session: Session, old: Turn, question: str, settings: Settings) -> Iterator[Turn]:
        """Answer ``question`` (empty: the same) as if it had been asked instead of ``old``, which stays.

        Yields as ``ask``.
        """
        with session.working():
            turn = self._begin(session, question.strip() or old.question, old.pictures, settings)
            turn.before, turn.known, session.variant = old.before, old.known, turn
            yield from self._run(session, turn)

    def _begin(
        self, session: Session, question: str, pictures: Sequence[Picture], settings: Settings
    ) -> Turn:
        session.asked += 1
        turn = Turn(session.asked, question, pictures, settings)
        turn.before, turn.known = session.history, session.asked_pictures
        return turn

    def _run(self, session: Session, turn: Turn) -> Iterator[Turn]:
        yield turn
        before = turn.before
        add = turn.settings.keep or turn.settings.box is not None
        closer = add and not turn.pictures and before is not None
        try:
            if len(turn.question) > self.limits.question_characters:
                raise VilaHDError(
                    f"the question has {len(turn.question):,} characters, "
                    f"{self.limits.question_characters:,} are allowed"
                )
            for piece in stream(
                self.model,
                self.processor,
                [picture.path for picture in turn.pictures],
                turn.question,
                high_res=self.options(turn),
                max_new_tokens=self.limits.new_tokens,
                history=before,
                keep_looks=closer,
                stop=session.stop,
            ):
                if isinstance(piece, Answer):
                    turn.answer, turn.stopped = piece, session.stop.is_set()
                else:
                    turn.text += piece
                yield turn
        except VilaHDError as error:
            turn.error = str(error)
        except torch.OutOfMemoryError:
            turn.error = "the memory of the device is full: use a smaller budget or fewer pictures"
        if turn.answer is not None:
            self.timings.add(turn.answer.receipt)
            turn.suggestions = self._suggestions(session, turn)
        yield turn

    def options(self, turn: Turn) -> HighResOptions:
        """How closely to look, for the library.

        Raises:
            VilaHDError: the box is in a picture that is not there.
        """
        settings = turn.settings
        if settings.box is None:
            return HighResOptions(budget=settings.budget, guided_by=settings.guide)
        count = len(turn.pictures) or (len(turn.before.pictures) if turn.before else 0)
        if not 0 <= settings.boxed < count:
            raise VilaHDError(f"a box in picture {settings.boxed + 1} of {count}: draw it again")
        regions = tuple((settings.box,) if at == settings.boxed else () for at in range(count))
        return HighResOptions(budget=settings.budget, guided_by="regions", regions=regions, only_regions=True)

    def _suggestions(self, session: Session, turn: Turn) -> Sequence[str]:
        """Questions about the example picture that was asked about, without those that were."""
        names = {picture.name for picture in [*turn.known, *turn.pictures]}
        asked = {each.question for each in session.turns}
        found = [each for example in self.examples if example.name in names for each in example.questions]
        return [each for each in found if each not in asked][:3]

    # ---------------------------------------------------------------- cost

    def cost(self, session: Session, budget: int) -> Cost:
        """What the next question costs at this budget; of a 4K picture while there is none."""
        known = [*session.asked_pictures, *session.waiting]
        sizes = [(picture.size[1], picture.size[0]) for picture in known] or [(2160, 3840)]
        return cost_of(self.processor, sizes, budget, timings=self.timings, context=self.context)

    def prepare(self) -> None:
        """Answer questions about the first example: the page starts with the last answer, and the first
        estimates rest on how long they took."""
        if not self.examples:
            return
        example, guide = self.examples[0], self.guides[0]
        session = self.sessions.open(forever=True)
        self.attach(session, [example.path])
        default = self.budgets[self.default_step]
        turn = None
        # The first answer of a process also pays for starting up: the median leaves it out.
        for budget in (default, 0, default, 0, default):
            settings = Settings(budget, guide)
            if turn is None:
                *_, turn = self.ask(session, example.questions[0], settings)
            else:
                *_, turn = self.ask_again(session, turn, example.questions[0], settings)
        if turn is not None and turn.answer:
            self.showcase = (session, turn)
