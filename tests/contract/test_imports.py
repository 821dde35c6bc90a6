"""What importing costs: the library needs no training, UI or second vision stack, and help is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEVER = ("torchvision", "timm", "deepspeed", "gradio", "wandb", "datasets", "flash_attn", "peft")
SERVING = ("fastapi", "uvicorn", "prometheus_client", "mcp")


def loaded_after(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``program``."""
    report = (
        "\nimport sys; sys.stderr.write('MODULES ' + ' '.join({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + report],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stderr.rpartition("MODULES ")[2].split())


def test_importing_the_library_loads_no_torch():
    loaded = loaded_after("import vila_hd, vila_hd.images, vila_hd.cli, vila_hd.cli.serve, vila_hd.cli.mcp")
    assert not loaded & {"torch", "transformers", *NEVER, *SERVING}


def test_the_whole_library_loads_without_optional_packages():
    program = "\n".join(
        [
            "import importlib, pkgutil, vila_hd, llava_compat",
            "for package in (vila_hd, llava_compat):",
            "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):",
            "        if not module.name.endswith('__main__') and 'vila_hd.serving.' not in module.name:",
            "            importlib.import_module(module.name)",
        ]
    )
    # transformers itself imports some of these when they are installed, so they are made unimportable first.
    block = f"import sys\nfor name in {NEVER + SERVING}:\n    sys.modules[name] = None\n"
    assert "torch" in loaded_after(block + program)


@pytest.mark.parametrize(
    "words", ["['--help']", "['ask', '--help']", "['--version']", "['doctor', '--help']"]
)
def test_help_loads_neither_torch_nor_transformers(words):
    program = f"""
import contextlib, io
from vila_hd.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main({words})
assert "vila-hd" in out.getvalue()
"""
    assert not loaded_after(program) & {"torch", "transformers"}
