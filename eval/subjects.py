"""Which model is measured: ours, one of transformers, or one behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .conditions import Condition
from .registry import Benchmark, Example
from .store import Prediction


class Subject(Protocol):
    """A model that is ready to be asked."""

    def answer(
        self, benchmark: Benchmark, examples: Sequence[Example], conditions: Sequence[Condition]
    ) -> list[Prediction]:
        """Predictions of every example under every condition."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model by name, cheap to hand to another process."""

    name: str
    """``nano``, a model folder or a hub id."""

    dtype: str = "auto"

    device: str | None = None
    """None: the GPU when there is one."""

    revision: str | None = None
    """Branch, tag or commit of a hub repository."""

    @property
    def is_ours(self) -> bool:
        """Whether budgets and guides mean something to it."""
        return True

    @property
    def uses_threads(self) -> bool:
        """Whether several questions at a time need threads only, not processes of their own."""
        return False

    @property
    def folder_name(self) -> str:
        """The name as part of a path."""
        return Path(self.name.rstrip("/")).name.replace(":", "-") or "model"

    def fingerprint(self) -> str:
        """A hash of the weights of a folder; else the name with its revision."""
        from .answering import fingerprint

        found = fingerprint(self.name)
        return found if self.revision is None or found != self.name else f"{found}@{self.revision}"

    def settings(self) -> dict[str, str | int | None]:
        """What an answer depends on."""
        return {"model": self.fingerprint(), "dtype": self.dtype}

    def open(self) -> Subject:
        """Load it.

        Raises:
            VilaHDError: it cannot be loaded.
        """
        from .answering import Answerer

        return Answerer(self.name, dtype=self.dtype, device=self.device, revision=self.revision)

    def commit(self) -> str | None:
        """The commit that a hub id stands for here, once it was fetched; None for a folder."""
        from transformers.utils import cached_file

        if self.name.count("/") != 1 or Path(self.name).expanduser().exists():
            return None
        path = cached_file(
            self.name,
            "config.json",
            revision=self.revision,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        parts = Path(path).parts if path else ()
        return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
