"""Predictions on disk: one JSON line each, so that nothing that was answered is lost or asked twice."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vila_hd.errors import VilaHDError


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answered question."""

    uid: str

    condition: str
    """``Condition.key``."""

    prediction: str

    answer: str
    """The expected answer."""

    score: float

    group: str

    patches: int
    """High-resolution patches chosen over all pictures."""

    visual_tokens: int | None
    """Visual tokens that reached the language model; None where the model does not tell."""

    recall: float | None
    """Share of the finest-scale patches of the regions that were chosen; None when no region is known."""

    seconds: float
    """Wall time of the batch divided by its size."""

    prompt_tokens: int | None = None
    """Tokens of the whole prompt, pictures included; None where the model does not tell."""

    error: str = ""
    """Why there is no answer; empty when there is one. It counts as wrong and is asked again next time."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it unique."""
        return self.uid, self.condition


class PredictionFile:
    """A JSON-lines file of predictions; the first line says what they belong to.

    Use it as a context manager. Lines that were cut off by a crash are dropped on opening.

    Args:
        path: the file; it and its folder are made when missing.
        settings: everything that a prediction depends on; a file with other settings is refused.

    Raises:
        VilaHDError: the file belongs to other settings, holds something else, or cannot be written.
    """

    def __init__(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))
        self.predictions: dict[tuple[str, str], Prediction] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            length = self._read(path.read_bytes()) if path.exists() else 0
            # Not buffered: a line that does not fit onto the disk must not wait for the end to fail again.
            self._file = path.open("ab", buffering=0)
            self._file.truncate(length)
            if length == 0:
                self._write({"settings": self._settings})
        except OSError as error:
            raise VilaHDError(f"cannot write {path}: {error.strerror}; give another --out folder") from error

    def _read(self, content: bytes) -> int:
        """Take over the complete lines of ``content`` and return their length in bytes."""
        settings, self.predictions, length = _parse(self.path, content)
        if length:
            self._require_settings(settings)
        return length

    def _require_settings(self, found: Mapping[str, Any]) -> None:
        for name in sorted(set(found) | set(self._settings)):
            if found.get(name) != self._settings.get(name):
                raise VilaHDError(
                    f"{self.path} has {name}={found.get(name)!r}, asked for {self._settings.get(name)!r}: "
                    "give another --out folder"
                )

    def _write(self, values: Mapping[str, Any]) -> None:
        """Append a line, or nothing of it."""
        left = json.dumps(values).encode() + b"\n"
        before = self._file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:  # Ctrl-C, too
            self._file.truncate(before)
            raise

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append predictions; one whose question is answered already is dropped.

        Raises:
            VilaHDError: the disk is full or the file is gone.
        """
        for prediction in predictions:
            known = self.predictions.get(prediction.key)
            if known is not None and not known.error:
                continue
            try:
                self._write(asdict(prediction))
            except OSError as error:
                raise VilaHDError(
                    f"cannot write {self.path}: {error.strerror}; nothing before is lost, start again when "
                    "there is room"
                ) from error
            self.predictions[prediction.key] = prediction

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_predictions(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Prediction]]:
    """Settings and predictions of a file that stays as it is.

    Raises:
        VilaHDError: there is no such file, or it holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VilaHDError(f"cannot read {path}: {error.strerror}; give a file of predictions") from error
    settings, predictions, length = _parse(path, content)
    if not length:
        raise VilaHDError(f"{path} holds no predictions: give a file that python -m eval wrote")
    return settings, predictions


def _parse(path: Path, content: bytes) -> tuple[dict[str, Any], dict[tuple[str, str], Prediction], int]:
    """Settings, predictions and length in bytes of the complete lines; a question's last line counts."""
    length = 0
    settings: dict[str, Any] = {}
    predictions: dict[tuple[str, str], Prediction] = {}
    for number, line in enumerate(content.splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
            if number == 0:
                settings = dict(values["settings"])
            else:
                prediction = Prediction(**values)
                predictions[prediction.key] = prediction
        except (ValueError, KeyError, TypeError) as error:
            raise VilaHDError(
                f"{path} line {number + 1} is no prediction: give another --out folder"
            ) from error
        length += len(line)
    return settings, predictions, length
