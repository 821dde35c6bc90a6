"""The recorded VILA-HD models, loaded the way a user loads them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_compat.checkpoint import from_model
from llava_compat.checkpoints import load_checkpoint
from llava_compat.writing import comparable
from vila_hd import VilaHDForConditionalGeneration, VilaHDProcessor

EXPECTED = {
    "pixel_values": ("mean", "std"),
    "tokenization": ("prompts", "padded_rows_prompt_end_positions"),
    "labels": ("items",),
    "encode_images_ps3": ("selected_per_iteration",),
    "generate": ("generated_ids", "generated_text", "expanded_length", "selected_per_iteration"),
    "training_batch": (
        "instances",
        "num_images_per_sample",
        "original_image_sizes",
        "prompt_end_positions",
        "images_in_batch_order",
    ),
    "training_loss": ("losses",),
    "selection_loss": ("expected_loss", "per_scale"),
}
"""Kind of a case -> outputs among the values of its entry in the manifest."""


@dataclass(frozen=True)
class VilaGoldens:
    """A folder of recorded VILA-HD outputs and its manifest."""

    folder: Path
    manifest: dict[str, Any]
    ledger: Any
    """Where compared values are counted."""

    def cases(self, *kinds: str) -> list[dict[str, Any]]:
        """The cases of some kinds."""
        return [case for case in self.manifest["cases"] if case["kind"] in kinds]

    def case(self, name: str) -> dict[str, Any]:
        return next(case for case in self.manifest["cases"] if case["name"] == name)

    def raw_tensors(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        """For inputs: looking at them compares nothing."""
        return load_file(self.folder / case["file"])

    def tensors(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        """For outputs: what is looked at counts as compared."""
        return self.ledger.watch(case["name"], self.raw_tensors(case))

    def model_folder(self, name: str) -> Path:
        return self.folder / self.manifest["models"][name]["path"]

    def copy_model(self, name: str, target: Path) -> Path:
        """A copy to change; the models that are stored without their weights get random ones."""
        shutil.copytree(self.model_folder(name), target, copy_function=shutil.copyfile)
        described = target / "tensors.json"
        if described.exists():
            generator = torch.Generator().manual_seed(0)
            for part, shapes in json.loads(described.read_text(encoding="utf-8")).items():
                tensors = {
                    key: torch.randn(*shape, generator=generator) * 0.1 for key, shape in shapes.items()
                }
                save_file(tensors, target / part / "model.safetensors", {"format": "pt"})
            described.unlink()
        return target

    def inputs_of(self, processor: VilaHDProcessor, parts: list[Any], **image_options: Any) -> dict[str, Any]:
        """Model inputs of recorded prompt parts."""
        message = {"role": "user", "content": user_content(parts)}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        pictures = [str(self.folder / part["image"]) for part in parts if isinstance(part, dict)]
        return processor(
            pictures or None, text, add_special_tokens=False, return_tensors="pt", **image_options
        )

    def kept_columns(self, processor: VilaHDProcessor, ids: list[int]) -> list[int]:
        """Columns of our ids that the published code has: of a picture's tokens only the first."""
        block = [processor.image_token_id] * processor.low_res_tokens + processor.image_end_ids
        kept, i = [], 0
        while i < len(ids):
            kept.append(i)
            i += len(block) if ids[i : i + len(block)] == block else 1
        return kept

    def heads(self, name: str) -> int:
        """Attention heads of the tower, which a trunk without a published name does not tell."""
        return self.manifest["models"][name]["vit"]["heads"]


def user_content(parts: list[Any]) -> list[dict[str, Any]]:
    """Prompt parts as the content of a message; the published code cleans texts that hold media tokens."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, dict):
            content.append({"type": "image"})
        else:
            text = part.replace("<image>", "").strip() if "<image>" in part else part
            content.append({"type": "text", "text": text})
    # All message values are stripped before they are tokenised.
    if content[-1]["type"] == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()
    return content


def open_goldens(config: pytest.Config) -> VilaGoldens:
    folder = config.getoption("--goldens-vila-hd")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return VilaGoldens(folder, manifest, config.ledgers["VILA-HD"])


@pytest.fixture(scope="session")
def vila_goldens(request: pytest.FixtureRequest) -> VilaGoldens:
    return open_goldens(request.config)


Loaded = tuple[VilaHDForConditionalGeneration, VilaHDProcessor]


@pytest.fixture(scope="session")
def load_recorded(
    vila_goldens: VilaGoldens, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Loaded]:
    """Load a recorded model by name, once."""
    loaded: dict[str, Loaded] = {}

    def load(name: str) -> Loaded:
        if name not in loaded:
            folder = vila_goldens.copy_model(name, tmp_path_factory.mktemp("recorded") / name)
            # Recorded with ps3-torch 0.1.3.
            loaded[name] = load_checkpoint(
                folder, budget_rounding="floor", num_attention_heads=vila_goldens.heads(name)
            )
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def good_published(vila_goldens: VilaGoldens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded model whose folder says everything that loading needs. Not to be changed."""
    folder = vila_goldens.copy_model("hd_2x2_prompt_mlp", tmp_path_factory.mktemp("published") / "model_a")
    change_json(folder / "vision_tower" / "config.json", num_attention_heads=4)
    return folder


@pytest.fixture(scope="module")
def loaded(good_published: Path) -> tuple[VilaHDForConditionalGeneration, VilaHDProcessor]:
    """The model and processor of ``good_published``. Not to be changed."""
    return load_checkpoint(good_published)


@pytest.fixture
def same_model() -> Callable[..., bool]:
    """Whether two models have the same tensors."""

    def compare(first: VilaHDForConditionalGeneration, second: VilaHDForConditionalGeneration) -> bool:
        ours, theirs = first.state_dict(), second.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    return compare


@pytest.fixture
def changed_settings() -> Callable[..., list[str]]:
    """Names of the settings in which two pairs of model and processor differ."""

    def compare(first: Any, second: Any) -> list[str]:
        ours, theirs = comparable(from_model(*first)), comparable(from_model(*second))
        return [key for key in ours if ours[key] != theirs[key]]

    return compare


@pytest.fixture
def published(good_published: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(good_published, tmp_path / "model_a"))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def edit() -> Callable[..., None]:
    """``edit(path, key=value)`` changes keys of a JSON file."""
    return change_json


@pytest.fixture
def edit_tensors() -> Callable[[Path, Callable[[dict[str, torch.Tensor]], object]], None]:
    """``edit_tensors(folder, change)`` changes the tensors of a folder."""

    def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``vila_case`` takes every case of the kinds that a test is marked with:
    ``@pytest.mark.kinds("generate")``."""
    if "vila_case" in metafunc.fixturenames:
        marker = next(metafunc.definition.iter_markers("kinds"))
        goldens = open_goldens(metafunc.config)
        cases = [
            goldens.ledger.watch(case["name"], case, EXPECTED.get(case["kind"], ()))
            for case in goldens.cases(*marker.args)
        ]
        metafunc.parametrize("vila_case", cases, ids=[case["name"] for case in cases])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kinds(*names): kinds of recorded cases that a test takes")
