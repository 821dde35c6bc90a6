"""Reading stage, recipe and model files."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vila_hd.errors import VilaHDError
from vila_hd.options import Guide
from vila_hd.towers.choice import EncoderChoice
from vila_hd.utils import config as yaml_config

from .config import RecipeConfig, StageConfig


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How tower and language model are joined; see ``VilaHDConfig``."""

    projector_type: str = "mlp_downsample"
    prompt_head: Literal["mlp", "linear"] | None = "mlp"
    select_layer: int = -2
    high_res_position: bool = True
    default_budget: int | None = None
    default_pruning: str | None = None
    default_guide: Guide | None = None
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    """How to see with the trunk of the tower: the switch between PS3 and its baselines."""

    prompt_end: Literal["question", "answer"] = "question"
    """Token whose state guides the choice of patches: the last one of the user's words (published), or the
    last one before the answer, which a language model trained from scratch puts more into."""

    def values(self) -> dict[str, Any]:
        """Everything that ``vila_hd.compose`` takes under the same name."""
        names = {field.name for field in fields(self)} - {"prompt_end"}
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model to be built with random weights: ``configs/model/*.yaml``."""

    name: str
    vision: dict[str, object]
    """Values of ``PS3VisionConfig``."""

    text: dict[str, object]
    """Values of ``PS3TextConfig``; vocabulary and prompt width come from the tokenizer and the tower."""

    llm: dict[str, object]
    """Values of the language model's config, with ``model_type``; the vocabulary comes from the tokenizer."""

    fusion: FusionConfig = field(default_factory=FusionConfig)

    vocabulary: int | None = None
    """Pieces of the scene-language tokenizer; None: its default."""


def load_stage(path: Path, overrides: Sequence[str] = ()) -> StageConfig:
    """Stage of a file.

    Raises:
        VilaHDError: the file does not fit ``StageConfig``, or its ``name`` is not the file's.
    """
    config = yaml_config.load(StageConfig, path, overrides)
    if config.name != path.stem:
        raise VilaHDError(f"{path}: name is {config.name!r}, expected {path.stem!r} (the file's name)")
    return config


def load_recipe(path: Path) -> RecipeConfig:
    """Recipe of a file."""
    return yaml_config.load(RecipeConfig, path)


def load_model_file(path: Path) -> ModelFile:
    """Model file of a path."""
    return yaml_config.load(ModelFile, path)
