"""The parent's side of a measuring worker."""

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vila_hd.errors import VilaHDError


class Worker:
    """A measuring process. Use it as a context manager: it never outlives the block.

    Args:
        name: how messages call it.
        command: the process to start.
        job: what to build; see the worker's ``build``.

    Raises:
        VilaHDError: the process does not start, or the worker fails (with the last line it wrote).
    """

    def __init__(self, name: str, command: list[str], *, job: dict[str, Any]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            self._errors.close()
            raise VilaHDError(f"cannot start {name} with {command[0]}: {error.strerror}") from error
        self._send(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None and kind is not None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._errors.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure() from error

    def _failure(self) -> VilaHDError:
        """What the worker said last, as an error."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        why = lines[-1] if lines else "it wrote nothing"
        if code == -9:
            why = "it was killed, most likely because memory ran out; use a smaller --preset"
        return VilaHDError(f"{self.name} stopped with exit status {code}: {why}")

    def receive(self) -> dict[str, Any]:
        """The worker's next answer.

        Raises:
            VilaHDError: the worker ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, what: str) -> dict[str, Any]:
        """Send the command ``what`` and wait for its answer.

        Raises:
            VilaHDError: the worker ended instead.
        """
        self._send({"do": what})
        return self.receive()


def script_beside(name: str) -> str:
    """Path of a worker script of this folder."""
    return str(Path(__file__).with_name(name))
