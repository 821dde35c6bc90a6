"""Files of one JSON object per picture that grow while a job runs, and tell it where to go on."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import get_logger

logger = get_logger(__name__)

Row = dict[str, Any]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a finished file.

    Raises:
        VilaHDError: it cannot be read, or a line is no object with ``image``.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if not isinstance(row["image"], str):
                        raise TypeError("image is no text")
                except (ValueError, KeyError, TypeError) as error:
                    raise VilaHDError(f"{path}:{number}: not a row with an image ({error})") from error
                yield row
    except OSError as error:
        raise VilaHDError(f"{path}: cannot be read ({error.strerror})") from error


class RowFile:
    """A file of rows, opened to go on; a line that was cut off by a crash is removed."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` and read which pictures it has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.done: set[str] = set()
        if path.exists():
            self._cut_last_line()
            self.done = {row["image"] for row in read_rows(path)}
        self._lock = threading.Lock()

    def _cut_last_line(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            with self.path.open("r+b") as file:
                file.truncate(end)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; it is in the file when this returns."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line)
        self.done.add(row["image"])


def run_jobs(
    rows: Iterable[Row],
    work: Callable[[Row], Row],
    out: Path,
    *,
    threads: int = 1,
    max_failed: float = 0.05,
    after: int = 20,
) -> tuple[int, int]:
    """Do ``work`` for every picture that ``out`` does not have yet.

    Failures are logged, listed in ``<out>.failed.jsonl`` and tried again by the next run.

    Args:
        rows: one per picture.
        work: row -> row to write; may raise ``VilaHDError``.
        out: the file.
        threads: pictures at the same time.
        max_failed: share of pictures that may fail.
        after: pictures before that share counts.

    Returns:
        Numbers of pictures that were done and that failed in this run.

    Raises:
        VilaHDError: too many failed.
    """
    file = RowFile(out)
    failed_path = out.with_name(out.name + ".failed.jsonl")
    failed_path.unlink(missing_ok=True)
    failures = RowFile(failed_path)
    done = failed = 0
    pending: dict[Future[Row], Row] = {}
    todo = (row for row in rows if row["image"] not in file.done)
    skipped = len(file.done)
    if skipped:
        logger.info("%s has %d pictures already; going on", out, skipped)
    pool = ThreadPoolExecutor(threads)
    try:
        for row in todo:
            pending[pool.submit(work, row)] = row
            if len(pending) >= 2 * threads or threads == 1:
                done, failed = _collect(pending, file, failures, (done, failed))
            _judge(failed, done + failed, max_failed, after)
        while pending:
            done, failed = _collect(pending, file, failures, (done, failed))
        _judge(failed, done + failed, max_failed, after if done + failed >= after else done + failed)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done, failed


def _collect(
    pending: dict[Future[Row], Row], file: RowFile, failures: RowFile, counts: tuple[int, int]
) -> tuple[int, int]:
    """Write what is finished; waits for at least one."""
    done, failed = counts
    for future in wait(pending, return_when=FIRST_COMPLETED).done:
        row = pending.pop(future)
        try:
            file.add(future.result())
            done += 1
        except PictureError as error:
            failed += 1
            logger.warning("%s: %s", row["image"], error)
            failures.add({"image": row["image"], "error": str(error)})
        if (done + failed) % 100 == 0:
            logger.info("%d pictures done, %d failed", done, failed)
    return done, failed


class PictureError(VilaHDError):
    """Something is wrong with one picture."""


def _judge(failed: int, seen: int, max_failed: float, after: int) -> None:
    if seen >= after and failed > max_failed * seen:
        raise VilaHDError(
            f"{failed} of {seen} pictures failed, more than --max-failed {max_failed:g}; see the warnings"
        )


def find_pictures(media: Path, *, part: tuple[int, int] = (1, 1)) -> list[Row]:
    """A row for every picture below ``media``, in the order of names; of ``part`` k of n, every n-th.

    Raises:
        VilaHDError: there are none.
    """
    if not media.is_dir():
        raise VilaHDError(f"--media {media}: no such folder")
    names = sorted(
        str(path.relative_to(media)) for path in media.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not names:
        raise VilaHDError(f"--media {media}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in it")
    k, n = part
    return [{"image": name} for name in names[k - 1 :: n]]
