"""Folders in the published layout: recognised, fetched, and checked before anything of them is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_hd.checkpoint_files import read_json
from vila_hd.errors import VilaHDError
from vila_hd.utils.text import one_line

COMPONENTS = ("llm", "vision_tower", "mm_projector")
"""Sub-folders of a published model, one per component."""

VILA_HD_TYPE = "llava_topdown_llama"
"""``model_type`` of the published VILA-HD models."""

MODEL_TYPES = (VILA_HD_TYPE, "llava_llama", "qllava_qllama", "vila")
"""Every ``model_type`` of the family; only the first is VILA-HD."""

ADAPTER_CONFIG = "adapter_config.json"

FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.md", "non_lora_trainables.bin")
"""Files of a hub repository that are fetched."""


def find_root(folder: Path) -> Path:
    """The folder that holds the components: ``folder``, or ``model/`` in it, where training runs put it."""
    inner = folder / "model"
    return inner if (inner / "config.json").is_file() else folder


def is_published(folder: Path) -> bool:
    """Whether ``folder`` holds a model of the VILA family, judged by its config.json alone."""
    path = find_root(folder) / "config.json"
    if not path.is_file():
        return False
    try:
        return read_json(path).get("model_type") in MODEL_TYPES
    except VilaHDError:
        return False


@dataclass(frozen=True)
class PublishedFolder:
    """A published model on the disk; its files lie where it says they do."""

    root: Path
    config: Mapping[str, Any]
    """The top-level config.json."""

    @classmethod
    def open(cls, folder: Path) -> "PublishedFolder":
        """The published VILA-HD model, or its adapter, in ``folder`` or in ``model/`` in it.

        Raises:
            VilaHDError: no such model, one of another kind, or a file that lies elsewhere.
        """
        root = find_root(folder)
        if not (root / "config.json").exists() and (steps := _find_steps(root)):
            raise VilaHDError(
                f"{root}: a training run without a finished model; give {steps[-1]}, its newest one"
            )
        config = read_json(root / "config.json")
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise VilaHDError(f"{root}: model_type is {str(kind)[:40]!r}, {_explain(root, kind)}")
        if kind != VILA_HD_TYPE or config.get("ps3") is not True:
            raise VilaHDError(
                f"{root}: a {kind!r} model with ps3={config.get('ps3')!r}: only VILA-HD models "
                f"({VILA_HD_TYPE!r} with ps3=true) can be read"
            )
        require_inside(root)
        opened = cls(root, config)
        if not opened.is_adapter:
            for name in COMPONENTS:
                opened.component(name)
        return opened

    @property
    def is_adapter(self) -> bool:
        """Whether it holds LoRA weights for another model instead of a model."""
        return (self.root / ADAPTER_CONFIG).is_file()

    def component(self, name: str) -> Path:
        """The folder of one component.

        Raises:
            VilaHDError: there is none.
        """
        folder = self.root / name
        if (folder / "config.json").is_file():
            return folder
        given = self.config.get(f"{name}_cfg")
        if isinstance(given, str):
            raise VilaHDError(
                f"{self.root}: takes its {name} from elsewhere ({name}_cfg={given[:80]!r}); save the model "
                "as "
                "one folder with all three components"
            )
        raise VilaHDError(f"{self.root}: no {name}/config.json; get the whole folder")


def _find_steps(run: Path) -> list[Path]:
    """Checkpoints of a training run, the newest last."""
    found = [path for path in run.glob("checkpoint-*") if is_published(path)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _explain(folder: Path, kind: Any) -> str:
    """What a folder that holds no published model is instead, and what to do."""
    if folder.name in COMPONENTS and is_published(folder.absolute().parent):
        return f"only the {folder.name} of a model; give the folder above, {folder.absolute().parent}"
    if kind == "vila_hd":
        return "our own layout; load it with vila_hd.load, or convert it with python -m llava_compat.convert"
    return f"not {VILA_HD_TYPE!r}; give a VILA-HD model"


def require_inside(root: Path) -> None:
    """Pass when no link in ``root`` or its component folders leads out of it.

    Links into the ``blobs`` of the same hub repository are how the hub's cache is built, and pass.

    Raises:
        VilaHDError: one does; names it.
    """
    real = root.resolve()
    allowed = [real]
    if real.parent.name == "snapshots" or real.parent.parent.name == "snapshots":
        snapshots = real.parent if real.parent.name == "snapshots" else real.parent.parent
        allowed.append(snapshots.parent / "blobs")
    for folder in (root, *(root / name for name in COMPONENTS)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if not path.is_symlink():
                continue
            target = path.resolve()
            if not any(target.is_relative_to(place) for place in allowed):
                raise VilaHDError(
                    f"{path}: a link to {target}, outside the model's folder; copy the file there instead"
                )


def fetch(name: str, *, revision: str | None, local_files_only: bool) -> Path:
    """The local copy of a hub repository, fetched where needed.

    Raises:
        VilaHDError: there is no such repository, or it cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, local_files_only=local_files_only, allow_patterns=list(FETCHED)
        )
    except LocalEntryNotFoundError as error:
        raise VilaHDError(
            f"{name}: neither a folder nor in the hub's cache on this machine, and the hub cannot be asked "
            "(offline); fetch it once while online, or give a folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = one_line(error)[:160]
        raise VilaHDError(f"{name}: neither a folder nor a repository of the hub ({reason})") from error
    return Path(folder)
