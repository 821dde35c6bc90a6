"""One thread reads and answers: a bounded number of questions, read in batches, answered in one batch."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..errors import VilaHDError
from ..generation import complete_config
from ..modeling_vila_hd import VilaHDForConditionalGeneration
from ..processing_vila_hd import VilaHDProcessor
from ..receipt import Receipt
from ..two_step import Phases
from ..utils.logging import get_logger
from .answer_text import AnswerText
from .picking import TokenPicker, pick_tokens
from .questions import ChosenToken, Event, Failed, Finished, Picture, Piece, Question
from .reading import Kind, PromptReader, Read
from .running_batch import RunningBatch

logger = get_logger(__name__)


class FullError(RuntimeError):
    """There is no room for another question now."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests at once; try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds after which there is probably room."""


class ClosingError(RuntimeError):
    """The engine ends, or has broken down."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How much an engine does at once."""

    max_batch: int = 16
    """Answers that are written together."""

    max_waiting: int = 64
    """Further questions that may wait; more are refused."""

    max_looks: int = 16
    """Pictures that are looked at together; a question with more is read alone."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_looks"):
            if getattr(self, name) < 1:
                raise VilaHDError(f"{name}={getattr(self, name)}: use a number >= 1")
        if self.max_waiting < 0:
            raise VilaHDError(f"max_waiting={self.max_waiting}: use a number >= 0")


class Observer:
    """Is told what an engine does, in the engine's thread. This one does nothing."""

    def read(self, num_questions: int, seconds: float) -> None:
        """Prompts were read together."""

    def stepped(self, num_rows: int) -> None:
        """Rows got a token each."""

    def ended(self, job: "Job", event: Event | None) -> None:
        """A job is over; ``None``: its client left."""


@dataclass(eq=False)
class Job:
    """A place in the engine, and the question in it once there is one."""

    number: int
    entered: float
    question: Question | None = None
    sink: Callable[[Event], None] | None = None
    """Called in the engine's thread; must not block or raise."""

    cancelled: bool = False
    first_token: float | None = None
    """When the first token was there, by ``time.monotonic``."""

    done: bool = False


@dataclass(eq=False)
class _Row:
    """An answer that is being written."""

    job: Job
    question: Question
    read: Read
    text: AnswerText
    picker: TokenPicker
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


class Engine:
    """Answers questions from many threads with one model.

    Use: ``with engine.place() as job: engine.submit(job, question, sink)``; leaving the block before the end
    of the answer cancels it.
    """

    def __init__(
        self,
        model: VilaHDForConditionalGeneration,
        processor: VilaHDProcessor,
        settings: EngineSettings | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Prepare; ``start`` begins.

        Raises:
            VilaHDError: the model does not say how answers end.
        """
        self.model, self.processor = model, processor
        self.settings, self.observer = settings or EngineSettings(), observer or Observer()
        config = complete_config(model, processor, 1, None)
        self._end_ids: list[int] = config.eos_token_id or []
        if not self._end_ids:
            raise VilaHDError("the model has no eos_token_id, so no answer would end: set it in its config")
        self._reader = PromptReader(model, config.pad_token_id or 0)
        self._batch = RunningBatch(model)
        self._rows: list[_Row] = []
        self._reading: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count()
        self._change = threading.Condition()
        self._closing = False
        self._mean_seconds = 1.0
        self.broken: BaseException | None = None
        """What the engine died of."""

        self._thread = threading.Thread(target=self._run, name="vila-hd-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End now: answers that are not over are cancelled. Whoever serves lets them end before."""
        with self._change:
            self._closing = True
            for job in self._jobs.values():
                job.cancelled = True
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def num_inside(self) -> int:
        """Questions that have a place: being prepared, waiting or being answered."""
        return len(self._jobs)

    @property
    def num_running(self) -> int:
        """Answers that are being written."""
        return len(self._rows)

    @contextmanager
    def place(self) -> Iterator[Job]:
        """A place for one question; given back at the end of the block, which also cancels the answer.

        Raises:
            FullError: all places are taken.
            ClosingError: the engine ends.
        """
        with self._change:
            self._check_open()
            if len(self._jobs) >= self.settings.max_batch + self.settings.max_waiting:
                raise FullError(min(60, max(1, round(self._mean_seconds))))
            job = Job(next(self._numbers), time.monotonic())
            self._jobs[job.number] = job
        try:
            yield job
        finally:
            with self._change:
                job.cancelled = True
                del self._jobs[job.number]
                self._change.notify_all()

    def look_ahead(self, picture: Picture) -> None:
        """Run the low-resolution pass of a picture in the caller's thread while the engine's thread answers.

        Only on a CPU: an accelerator is used better by looking at several pictures together, later.
        """
        if self.model.device.type == "cpu":
            # What fails here fails again, and is reported, when a question about the picture is read.
            with torch.inference_mode(), _survivable():
                self._reader.look_at([picture])

    def submit(self, job: Job, question: Question, sink: Callable[[Event], None]) -> None:
        """Ask. ``sink`` gets the answer piece by piece, then one ``Finished`` or ``Failed``."""
        with self._change:
            self._check_open()
            job.question, job.sink = question, sink
            self._waiting.append(job)
            self._change.notify_all()

    def _check_open(self) -> None:
        if self.broken is not None:
            raise ClosingError("the engine broke down; start the server again")
        if self._closing:
            raise ClosingError("the server is shutting down")

    # ------------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while (jobs := self._take()) is not None:
                    self._reading = jobs
                    self._read(jobs)
                    self._reading = []
                    self._step()
        except BaseException as error:
            logger.exception("the engine broke down")
            self._break_down(error)
            raise

    def _break_down(self, error: BaseException) -> None:
        with self._change:
            self.broken = error
            jobs = [*self._reading, *(row.job for row in self._rows), *self._waiting]
            self._rows, self._waiting = [], deque()
        for job in dict.fromkeys(jobs):
            if not job.done:
                self._end(job, Failed(RuntimeError("the engine broke down")))

    def _take(self) -> list[Job] | None:
        """Questions to read now, perhaps none; None: everything is done and no more will come."""
        with self._change:
            while not self._rows and not self._waiting:
                if self._closing:
                    return None
                self._change.wait()
            taken: list[Job] = []
            looks = 0
            while self._waiting and self._batch.can_join():
                job = self._waiting[0]
                assert job.question is not None
                looks += len(job.question.pictures)
                if len(self._rows) + len(taken) >= self.settings.max_batch:
                    break
                if taken and looks > self.settings.max_looks:
                    break
                taken.append(self._waiting.popleft())
            return taken

    def _read(self, jobs: Sequence[Job]) -> None:
        """Look at the pictures of questions, read their prompts, and let them join the batch."""
        alive = [(job, job.question) for job in jobs if job.question is not None and not job.cancelled]
        for job in jobs:
            if job.cancelled:
                self._end(job, None)
        if len(alive) > 1:
            # Together where that works; otherwise each looks below, and whoever is to blame fails alone.
            with _survivable():
                self._reader.look_at([picture for _, question in alive for picture in question.pictures])
        kinds: dict[Kind, list[tuple[Job, Question]]] = {}
        for job, question in alive:
            with _survivable() as failure:
                self._reader.look_at(question.pictures)
                self._reader.check(question)
                kinds.setdefault(self._reader.kind(question), []).append((job, question))
            if failure:
                self._end(job, Failed(failure[0]))
        for group in kinds.values():
            self._read_together(group)

    def _read_together(self, group: Sequence[tuple[Job, Question]]) -> None:
        questions = [question for _, question in group]
        phases = Phases(self.model.device)
        started = time.monotonic()
        with _survivable() as failure:
            pickers = [TokenPicker(q.sampling, self.processor.tokenizer, self._end_ids) for q in questions]
            filled, reads = self._reader.read(questions, phases)
        if failure:
            if len(group) == 1:
                self._end(group[0][0], Failed(failure[0]))
                return
            for entry in group:  # whoever is to blame fails alone
                self._read_together([entry])
            return
        self.observer.read(len(group), time.monotonic() - started)
        self._batch.join(filled)
        for (job, question), read, picker in zip(group, reads, pickers, strict=True):
            text = AnswerText(self.processor.tokenizer, question.sampling.stop)
            self._rows.append(_Row(job, question, read, text, picker, dict(phases.seconds)))

    def _step(self) -> None:
        """One token for every row."""
        self._drop([row for row in self._rows if row.job.cancelled], None)
        if not self._rows:
            return
        started = time.monotonic()
        with _survivable() as failure:
            picked = pick_tokens(self._batch.step(), [row.picker for row in self._rows])
            self._batch.advance([token for token, _ in picked])
        if failure:
            logger.warning("a step of %d answers failed: %s", len(self._rows), failure[0])
            self._drop(list(self._rows), Failed(failure[0]))
            return
        seconds = time.monotonic() - started
        self.observer.stepped(len(self._rows))
        over = []
        for row, (token, report) in zip(self._rows, picked, strict=True):
            row.seconds["language"] = row.seconds.get("language", 0.0) + seconds
            if self._write(row, token, () if report is None else (report,)):
                over.append(row)
        self._drop(over, None)

    def _write(self, row: _Row, token: int, report: tuple[ChosenToken, ...]) -> bool:
        """Hand on what a token adds; whether the answer is over."""
        job, sampling = row.job, row.question.sampling
        assert job.sink is not None
        if job.first_token is None:
            job.first_token = time.monotonic()
        row.tokens += 1
        ended = token in self._end_ids
        text = "" if ended else row.text.add(token)
        over = ended or row.text.stopped or row.tokens >= sampling.max_new_tokens
        if over:
            text += row.text.finish()
        report = () if ended else report
        if text or report:
            job.sink(Piece(text, report))
        if over:
            self._end(job, self._finished(row, "stop" if ended or row.text.stopped else "length"))
        return over

    def _finished(self, row: _Row, reason: Literal["stop", "length"]) -> Finished:
        receipt = None
        if row.question.explain:
            receipt = Receipt.from_looks(
                row.read.looks,
                prompt_tokens=row.read.prompt_tokens - row.read.visual_tokens,
                new_tokens=row.tokens,
                seconds=row.seconds,
            )
        return Finished(
            reason=reason,
            prompt_tokens=row.read.prompt_tokens,
            visual_tokens=row.read.visual_tokens,
            new_tokens=row.tokens,
            looks=row.read.looks,
            receipt=receipt,
        )

    def _drop(self, rows: Sequence[_Row], event: Event | None) -> None:
        """Take rows out of the batch; tell those that do not know."""
        if not rows:
            return
        for row in rows:
            if not row.job.done:
                self._end(row.job, event)
        gone = set(map(id, rows))
        stay = [i for i, row in enumerate(self._rows) if id(row) not in gone]
        self._batch.keep(stay)
        self._rows = [self._rows[i] for i in stay]

    def _end(self, job: Job, event: Event | None) -> None:
        job.done = True
        seconds = time.monotonic() - job.entered
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self.observer.ended(job, event)
        if event is not None and job.sink is not None:
            job.sink(event)


@contextmanager
def _survivable() -> Iterator[list[Exception]]:
    """Collect an error that ends some answers but not the engine: bad input, or too little memory."""
    caught: list[Exception] = []
    try:
        yield caught
    except (VilaHDError, MemoryError) as error:
        caught.append(error)
    except RuntimeError as error:
        # After one of these (an illegal access, for example), nothing works on the accelerator any more.
        if isinstance(error, getattr(torch, "AcceleratorError", ())):
            raise
        caught.append(error)
