"""Sharded prediction into a resumable file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from tqdm import tqdm

from vila_hd.errors import VilaHDError

from .answering import Answerer
from .conditions import Condition
from .registry import Benchmark
from .store import Prediction, PredictionFile


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


def missing_jobs(
    benchmark: Benchmark, conditions: Sequence[Condition], file: PredictionFile, batch_size: int
) -> list[Job]:
    """What is left to do."""
    jobs: list[Job] = []
    uids = [benchmark.example(index).uid for index in range(len(benchmark))]
    for start in range(0, len(uids), batch_size):
        some = range(start, min(start + batch_size, len(uids)))
        missing = {
            condition: [index for index in some if (uids[index], condition.key) not in file.predictions]
            for condition in conditions
        }
        indices = sorted({index for entries in missing.values() for index in entries})
        if indices:
            left = tuple(condition for condition in conditions if missing[condition])
            jobs.append(Job(indices=tuple(indices), conditions=left))
    return jobs


def predict_missing(
    benchmark: Benchmark,
    conditions: Sequence[Condition],
    file: PredictionFile,
    *,
    model: str,
    dtype: str,
    work: Work,
) -> None:
    """Answer what ``file`` does not hold yet, and append it as it comes.

    Raises:
        VilaHDError: the model cannot be loaded, or the file cannot be written.
    """
    jobs = missing_jobs(benchmark, conditions, file, work.batch_size)
    total = sum(len(job.indices) * len(job.conditions) for job in jobs)
    with tqdm(total=total, unit="answer", disable=None) as progress:
        for predictions in _answers(benchmark, jobs, model, dtype, work):
            file.add(predictions)
            progress.update(len(predictions))


def _answers(
    benchmark: Benchmark, jobs: Sequence[Job], model: str, dtype: str, work: Work
) -> Iterator[list[Prediction]]:
    """Predictions job by job, in the order in which they are done."""
    if not jobs:
        return
    if work.processes == 1:
        torch.set_num_threads(work.threads)
        answerer = Answerer(model, dtype=dtype)
        for job in jobs:
            yield _do(answerer, benchmark, job)
        return
    pool = ProcessPoolExecutor(
        min(work.processes, len(jobs)),
        mp_context=get_context("spawn"),  # a fork would inherit torch's thread pool without its threads
        initializer=_start,
        initargs=(model, dtype, work.threads),
    )
    try:
        futures: list[Future[list[Prediction]]] = [pool.submit(_do_here, benchmark, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_HERE: list[Answerer] = []
"""The worker process's own model."""


def _start(model: str, dtype: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _HERE.append(Answerer(model, dtype=dtype))


def _do_here(benchmark: Benchmark, job: Job) -> list[Prediction]:
    return _do(_HERE[0], benchmark, job)


def _do(answerer: Answerer, benchmark: Benchmark, job: Job) -> list[Prediction]:
    return answerer.answer(benchmark, [benchmark.example(index) for index in job.indices], job.conditions)
