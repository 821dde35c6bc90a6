"""Which model is measured: ours, one of transformers, or one behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vila_hd.checkpoint_files import read_json
from vila_hd.errors import VilaHDError
from vila_hd.options import Guide

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
    def label(self) -> str:
        """The name as on the command line."""
        return self.name

    def fingerprint(self) -> str:
        """A hash of the weights of a folder; else the name with its revision."""
        from .answering import fingerprint

        found = fingerprint(self.name)
        return found if self.revision is None or found != self.name else f"{found}@{self.revision}"

    def default_guide(self) -> Guide:
        """What steers the model's looks when nobody says: as its folder says, else the question."""
        guide: Guide = self._config().get("default_guide", "prompt")
        return guide

    def default_budgets(self) -> tuple[str, ...]:
        """Budgets to compare: of a model that sees whole pictures only without and with all of its views."""
        from vila_hd.configuration_vila_hd import VISION_CONFIGS

        tower = VISION_CONFIGS.get(self._config().get("vision_config", {}).get("model_type"))
        chooses = tower is None or tower().chooses
        return ("0", "144", "288", "576", "auto") if chooses else ("0", "auto")

    def _config(self) -> dict[str, Any]:
        """The configuration in the folder; nothing where that is not here or not ours."""
        from vila_hd.loading import BUNDLED

        file = (BUNDLED if self.name == "nano" else Path(self.name).expanduser()) / "config.json"
        return read_json(file) if self.is_ours and file.is_file() else {}

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


@dataclass(frozen=True, kw_only=True)
class ExternalSpec(ModelSpec):
    """A model of another kind, asked one question at a time."""

    max_pixels: int | None = None
    """Larger pictures are reduced to so many pixels first."""

    def __post_init__(self) -> None:
        if self.max_pixels is not None and self.max_pixels < 1:
            raise VilaHDError(f"--max-pixels {self.max_pixels}: use 1 or more")

    @property
    def is_ours(self) -> bool:
        """False: budgets and guides mean nothing to it."""
        return False


@dataclass(frozen=True, kw_only=True)
class TransformersSpec(ExternalSpec):
    """``hf:NAME_OR_FOLDER``: an image-text-to-text model of transformers; ``name`` is without ``hf:``."""

    trust_remote_code: bool = False

    @property
    def label(self) -> str:
        """The name as on the command line."""
        return f"hf:{self.name}"

    def settings(self) -> dict[str, str | int | None]:
        """What an answer depends on."""
        model = f"hf:{self.fingerprint()}"
        return {"model": model, "dtype": self.dtype, "max_pixels": self.max_pixels}

    def open(self) -> Subject:
        """Load it.

        Raises:
            VilaHDError: it cannot be loaded.
        """
        from .external import ExternalSubject
        from .transformers_chat import TransformersChat

        chat = TransformersChat(
            self.name,
            dtype=self.dtype,
            device=self.device,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
        return ExternalSubject(chat, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class EndpointSpec(ExternalSpec):
    """``openai:MODEL``: a model behind an OpenAI-compatible endpoint; ``name`` is without ``openai:``."""

    base_url: str

    timeout: float = 120.0

    retries: int = 5

    @property
    def label(self) -> str:
        """The name as on the command line."""
        return f"openai:{self.name}"

    @property
    def uses_threads(self) -> bool:
        """True: the work is done elsewhere."""
        return True

    def fingerprint(self) -> str:
        """The name: nobody here sees the weights."""
        return self.name

    def settings(self) -> dict[str, str | int | None]:
        """What an answer depends on."""
        return {"model": f"openai:{self.name}", "base_url": self.base_url, "max_pixels": self.max_pixels}

    def open(self) -> Subject:
        """A client for it.

        Raises:
            VilaHDError: an option has an impossible value.
        """
        from .endpoint import EndpointChat
        from .external import ExternalSubject

        chat = EndpointChat(self.name, base_url=self.base_url, timeout=self.timeout, retries=self.retries)
        return ExternalSubject(chat, max_pixels=self.max_pixels)

    def commit(self) -> str | None:
        """None: nobody here knows."""
        return None
