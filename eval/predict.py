"""Sharded prediction into a resumable file."""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from vila_hd.errors import VilaHDError

from .conditions import Condition
from .failures import CannotGoOnError
from .reduced import reduce_pictures
from .registry import Benchmark, Example
from .store import Prediction, PredictionFile, read_predictions
from .subjects import ModelSpec, Subject
from .team import Team

HOPELESS = 16
"""When this many samples failed and none was answered, the model is at fault, not the samples."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How the work is done; none of it changes an answer."""

    batch_size: int = 8
    """Questions that are answered together."""

    processes: int = 1

    threads: int = 2
    """Threads of torch in each process."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "processes", "threads"):
            if getattr(self, name) < 1:
                raise VilaHDError(f"--{name.replace('_', '-')} {getattr(self, name)}: use 1 or more")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A batch of examples and the conditions that are still missing for some of them."""

    indices: tuple[int, ...]
    conditions: tuple[Condition, ...]


def example_at(benchmark: Benchmark, index: int) -> Example:
    """The example at ``index``; in place of a broken one, an empty one without a picture."""
    try:
        return benchmark.example(index)
    except Exception:  # noqa: BLE001 - what is wrong is recorded when the example is asked
        return Example(uid=f"broken-{index}", prompt="", load_images=tuple, answers=("",))


def missing_jobs(
    uids: Sequence[str], conditions: Sequence[Condition], done: Collection[tuple[str, str]], batch_size: int
) -> list[Job]:
    """What is left to do, given the keys of what is done."""
    jobs: list[Job] = []
    for start in range(0, len(uids), batch_size):
        some = range(start, min(start + batch_size, len(uids)))
        missing = {
            condition: [index for index in some if (uids[index], condition.key) not in done]
            for condition in conditions
        }
        indices = sorted({index for entries in missing.values() for index in entries})
        if indices:
            left = tuple(condition for condition in conditions if missing[condition])
            jobs.append(Job(indices=tuple(indices), conditions=left))
    return jobs


class Workers:
    """A model, loaded when the first question needs it, in as many processes as asked for.

    Use it as a context manager.
    """

    def __init__(self, spec: ModelSpec, work: Work) -> None:
        self.spec, self.work = spec, work
        self._here: Subject | None = None
        self._pool: Executor | None = None
        self._waiting: list[Future[list[Prediction]]] = []

    @property
    def batch_size(self) -> int:
        """Questions per job; one for models of other kinds, so that a failure costs no other answer."""
        return self.work.batch_size if self.spec.is_ours else 1

    def answers(self, benchmark: Benchmark, jobs: Sequence[Job]) -> Iterator[list[Prediction]]:
        """Predictions job by job, in the order in which they are done; see also ``under_way``.

        Raises:
            VilaHDError: the model cannot be loaded, or a process died.
        """
        if not jobs:
            return
        if self._here is None and (self.spec.uses_threads or self.work.processes == 1):
            torch.set_num_threads(self.work.threads)
            self._here = self.spec.open()
        if self._here is not None and self.work.processes == 1:
            for job in jobs:
                yield do(self._here, benchmark, job)
            return
        self._waiting = []
        try:
            for job in jobs:
                self._waiting.append(self._submit(benchmark, job))
            for future in as_completed(tuple(self._waiting)):
                yield future.result()
                self._waiting.remove(future)
        except BrokenProcessPool as error:
            raise VilaHDError(
                "a worker process died, often for want of memory: use fewer --processes or a smaller "
                "--batch-size, and start again; nothing that was answered is lost"
            ) from error

    def under_way(self) -> Iterator[list[Prediction]]:
        """After ``answers`` was left early: what is paid for already, requests to an endpoint or minutes of a
        worker. Waits for it, drops what has not begun, and yields the job that was handed out last again.
        """
        begun = [future for future in self._waiting if not future.cancel()]
        if not all(future.done() for future in begun):
            print("stopping: waiting for the answers that are under way", file=sys.stderr)
        for future in as_completed(begun):
            if future.exception() is None:
                yield future.result()

    def _submit(self, benchmark: Benchmark, job: Job) -> Future[list[Prediction]]:
        if self._here is not None:
            self._pool = self._pool or ThreadPoolExecutor(self.work.processes)
            return self._pool.submit(do, self._here, benchmark, job)
        self._pool = self._pool or ProcessPoolExecutor(
            self.work.processes,
            mp_context=get_context("spawn"),  # a fork would inherit torch's thread pool without its threads
            initializer=_start,
            initargs=(self.spec, self.work.threads),
        )
        return self._pool.submit(_do_here, benchmark, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


_HERE: list[Subject | VilaHDError] = []
"""The worker process's own model, or why there is none."""


def start_worker(threads: int) -> None:
    """Make this process one of a pool's: it outlives Ctrl-C, but not its parent."""
    # A terminal's Ctrl-C reaches the workers, too; what they are at is finished and kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def _start(spec: ModelSpec, threads: int) -> None:
    start_worker(threads)
    try:
        _HERE.append(spec.open())
    except VilaHDError as error:  # an initializer that raises only breaks the pool, without a reason
        _HERE.append(error)


def _end_with_parent() -> None:
    """When the process that hands out work was killed, nobody reads the answers any more."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_here(benchmark: Benchmark, job: Job) -> list[Prediction]:
    subject = _HERE[0]
    if isinstance(subject, VilaHDError):
        raise CannotGoOnError(str(subject))
    return do(subject, benchmark, job)


def do(subject: Subject, benchmark: Benchmark, job: Job) -> list[Prediction]:
    """Answer a batch; when it fails, its questions one by one, so that only those that are at fault fail.

    Raises:
        CannotGoOnError: the model can answer nothing.
    """
    answered = _try(subject, benchmark, job)
    if not isinstance(answered, Exception):
        return answered
    if len(job.indices) == len(job.conditions) == 1:
        return [_failure(benchmark, job.indices[0], job.conditions[0], answered)]
    del answered  # its traceback holds the tensors of the batch
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    singles = [
        Job(indices=(index,), conditions=(condition,))
        for index in job.indices
        for condition in job.conditions
    ]
    return [prediction for single in singles for prediction in do(subject, benchmark, single)]


def _try(subject: Subject, benchmark: Benchmark, job: Job) -> list[Prediction] | Exception:
    try:
        examples = [benchmark.example(index) for index in job.indices]
        predictions: list[Prediction] = []
        # Each size in turn; conditions of one size share the low-resolution pass.
        for side in dict.fromkeys(condition.side for condition in job.conditions):
            shown = examples if side is None else [reduce_pictures(example, side) for example in examples]
            some = [condition for condition in job.conditions if condition.side == side]
            predictions += subject.answer(benchmark, shown, some)
        return predictions
    except CannotGoOnError:
        raise
    except Exception as error:
        if type(error).__name__ == "AcceleratorError":  # torch < 2.8 has no such class
            reason = str(error).strip().splitlines()[0]
            raise CannotGoOnError(
                f"the GPU can do no more in this process ({reason}): start again"
            ) from error
        return error


def _failure(benchmark: Benchmark, index: int, condition: Condition, error: Exception) -> Prediction:
    """The record of a sample without an answer."""
    example = example_at(benchmark, index)
    lines = str(error).strip().splitlines()
    return Prediction(
        uid=example.uid,
        condition=condition.key,
        prediction="",
        answer=example.answers[0] if example.answers else "",
        score=0.0,
        group=example.group,
        patches=0,
        visual_tokens=None,
        recall=None,
        seconds=0.0,
        error=f"{type(error).__name__}: {lines[0][:300] if lines else ''}",
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """Questions of one benchmark and the file of their answers."""

    benchmark: Benchmark

    conditions: tuple[Condition, ...]

    path: Path

    settings: Mapping[str, Any]
    """Everything that a prediction depends on."""

    limit: int | None = None
    """Only the first so many examples."""

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """The examples that count, in order.

        Raises:
            VilaHDError: two have the same uid.
        """
        count = len(self.benchmark) if self.limit is None else min(self.limit, len(self.benchmark))
        examples = tuple(example_at(self.benchmark, index) for index in range(count))
        uid, times = Counter(example.uid for example in examples).most_common(1)[0]
        if times > 1:
            raise VilaHDError(f"{self.benchmark.name}: uid {uid!r} is there {times} times; mend the data")
        return examples

    @property
    def uids(self) -> list[str]:
        """Uids of ``examples``."""
        return [example.uid for example in self.examples]

    def answer(self, workers: Workers, team: Team) -> dict[str, list[Prediction]]:
        """Answer what is not answered yet; predictions of all examples per condition, in order.

        Every process of the team returns the same.

        Raises:
            VilaHDError: the model cannot answer, predictions of something else are in the way, or the
                processes do not share a folder.
        """
        if team.leads:
            self._join_shards()
        team.wait()
        uids = self.uids
        if team.count == 1:
            with PredictionFile(self.path, settings=self.settings) as file:
                self._fill(file, dict(file.predictions), workers, team)
        else:
            _, known = read_predictions(self.path)
            with PredictionFile(self._shard(team.index), settings=self.settings) as file:
                self._fill(file, known, workers, team)
            team.wait()
            if team.leads:
                self._join_shards()
            team.wait()
        _, predictions = read_predictions(self.path)
        wanted = [(uid, condition.key) for condition in self.conditions for uid in uids]
        lost = next((key for key in wanted if key not in predictions), None)
        if lost is not None:
            raise VilaHDError(
                f"{self.path} lacks {lost[0]!r}: the processes need one --out folder that all of them share"
            )
        return {
            condition.key: [predictions[uid, condition.key] for uid in uids] for condition in self.conditions
        }

    def _shard(self, index: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.rank{index}{self.path.suffix}")

    def _join_shards(self) -> None:
        """Move predictions of single processes, also those of an interrupted run, into the file."""
        pattern = f"{self.path.stem}.rank*{self.path.suffix}"
        with PredictionFile(self.path, settings=self.settings) as file:
            for shard in sorted(self.path.parent.glob(pattern)):
                with PredictionFile(shard, settings=self.settings) as part:
                    file.add(part.predictions.values())
                shard.unlink()

    def _fill(
        self,
        file: PredictionFile,
        known: Mapping[tuple[str, str], Prediction],
        workers: Workers,
        team: Team,
    ) -> None:
        """Put this process's share of what ``known`` lacks into ``file``."""
        done = {key for key, prediction in known.items() if not prediction.error}
        jobs = missing_jobs(self.uids, self.conditions, done, workers.batch_size)
        jobs = jobs[team.index :: team.count]
        total = sum(len(job.indices) * len(job.conditions) for job in jobs)
        failed: list[Prediction] = []
        answered = len(done)
        hidden = None if team.leads else True
        with tqdm(total=total, unit="answer", desc=self.benchmark.name, disable=hidden) as progress:
            try:
                for predictions in workers.answers(self.benchmark, jobs):
                    file.add(predictions)
                    progress.update(len(predictions))
                    errors = [prediction for prediction in predictions if prediction.error]
                    failed += errors
                    answered += len(predictions) - len(errors)
                    if not answered and len(failed) >= min(HOPELESS, total):
                        raise VilaHDError(
                            f"{self.benchmark.name}: the first {len(failed)} answers all failed, "
                            f"{failed[0].uid} with {failed[0].error}; mend the model or the options, then "
                            "start again"
                        )
            except BaseException:
                for predictions in workers.under_way():
                    file.add(predictions)
                raise
