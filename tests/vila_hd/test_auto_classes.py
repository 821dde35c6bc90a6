"""Auto classes know the models in every order of imports, and saved folders load in a bare process."""

import subprocess
import sys
from pathlib import Path

import pytest

from vila_hd.testing import tiny_model, tiny_processor

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *, library: bool = True) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; without ``library`` it cannot import ``vila_hd``."""
    setup = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        if library
        else ("import sys; sys.modules['vila_hd'] = None\n")
    )
    return subprocess.run(
        [sys.executable, "-I", "-c", setup + code], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import vila_hd; from transformers import AutoConfig",
        "from transformers import AutoConfig, GenerationMixin; import vila_hd",
        "import vila_hd; from transformers import GenerationMixin",
        "from vila_hd.ps3 import PS3VisionModel",
        "import vila_hd.modeling_vila_hd",
        "import vila_hd.ps3.modeling_ps3_text",
    ],
)
def test_models_are_known_in_every_order_of_imports(saved: Path, imports: str) -> None:
    code = f"{imports}\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n"
    code += f"print(type(AutoModelForImageTextToText.from_pretrained({str(saved)!r})).__name__)\n"
    code += f"print(type(AutoProcessor.from_pretrained({str(saved)!r})).__name__)\n"
    result = run(code)
    assert result.stdout.split()[-2:] == ["VilaHDForConditionalGeneration", "VilaHDProcessor"], result.stderr


IMPORT_ONE = """
import os, torch
for name in {0!r}:
    child = os.fork()
    if child == 0:
        try:
            __import__(name)
            code = 0
        except BaseException as error:
            print(name, repr(error), flush=True)
            code = 1
        os._exit(code)
    os.waitpid(child, 0)
print("done")
"""
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("vila_hd", "llava_compat")
    for path in (ROOT / package).rglob("*.py")
    if path.stem != "__main__" and "assets" not in path.parts
)


@pytest.mark.parametrize(
    "modules",
    [
        ["vila_hd.projector", "vila_hd.outputs", "vila_hd.pruning.looks"],
        pytest.param(MODULES, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_every_module_can_be_the_first_that_is_imported(modules: list[str]) -> None:
    result = run(IMPORT_ONE.format(modules))
    assert result.stdout == "done\n", result.stdout + result.stderr


def test_import_is_light() -> None:
    code = "import vila_hd\nprint(sorted({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    assert run(code).stdout.strip() == "[]"


REMOTE = """
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained({0!r}, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained({0!r}, trust_remote_code=True)
print(type(model).__name__, type(processor).__name__)
"""


@pytest.mark.slow
def test_saved_folder_brings_the_library_with_it(saved: Path) -> None:
    result = run(REMOTE.format(str(saved)))
    assert result.stdout.split()[-2:] == ["VilaHDForConditionalGeneration", "VilaHDProcessor"], result.stderr


@pytest.mark.slow
def test_saved_folder_says_what_to_install(saved: Path) -> None:
    result = run(REMOTE.format(str(saved)), library=False)
    assert result.returncode != 0
    assert "this checkpoint needs the package vila-hd: pip install vila-hd" in result.stderr


def test_saved_folder_holds_no_copy_of_the_library(saved: Path) -> None:
    assert [path.name for path in saved.glob("*.py")] == ["vila_hd_loader.py"]
