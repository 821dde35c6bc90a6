"""Talking to a terminal: where answers, receipts, progress and errors go, and what exit statuses mean."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tqdm import tqdm

from ..errors import VilaHDError
from ..utils.text import one_line


def print_error(error: object) -> None:
    """One line on stderr."""
    print(f"error: {one_line(error)}", file=sys.stderr)


def print_lines(lines: Sequence[str], *, indent: str = "  ") -> None:
    """A receipt or another remark: on stderr, so that stdout holds answers only."""
    for line in lines:
        print(f"{indent}{line}", file=sys.stderr)


def run_command(command: Callable[[], int], *, interrupted: str = "") -> int:
    """The exit status of one command line; never raises for bad input.

    Args:
        command: parses, works and prints; its status counts, 2 after a ``VilaHDError`` (one line
            ``error: ...`` on stderr), 130 after Ctrl-C.
        interrupted: what to say after Ctrl-C.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # answers and names that the terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        status = command()
        sys.stdout.flush()
        return status
    except VilaHDError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (vila-hd info nano | head -1); not to be told again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class Steps:
    """A progress bar over the steps of one command, on stderr, only when that is a terminal.

    The clock in it goes on while a step runs: the caller may be inside one long call of a library.
    """

    def __init__(self, total: int) -> None:
        self.bar = tqdm(
            total=total,
            leave=False,
            disable=not sys.stderr.isatty(),
            bar_format="{desc:<28} |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}]",
            file=sys.stderr,
        )
        self.done = threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)
        if not self.bar.disable:
            self.clock.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar; may be called twice."""
        if not self.done.is_set():
            self.done.set()
            if self.clock.is_alive():
                self.clock.join()
            self.bar.close()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step; the bar advances when it ends."""
        self.bar.set_description_str(name, refresh=True)
        yield
        self.bar.update(1)

    def _tick(self) -> None:
        while not self.done.wait(0.2):
            self.bar.refresh()
