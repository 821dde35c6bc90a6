"""Metadata of the distribution ``vila-hd``. Installs ``vila_hd`` and ``llava_compat`` only.

``train``, ``eval`` and ``demo`` are applications that run from a checkout; they are never installed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "vila_hd" / "version.py").read_text(encoding="utf-8"))
assert VERSION is not None, "vila_hd/version.py holds no version"

EXTRAS = {
    "train": ["accelerate>=1.1", "deepspeed>=0.19", "peft>=0.18", "PyYAML>=6", "tensorboard>=2.16"],
    "qlora": ["bitsandbytes>=0.46"],
    "wandb": ["wandb>=0.19"],
    "eval": ["datasets>=4", "psutil>=5.9", "PyYAML>=6"],
    "demo": ["gradio>=6.20", "pypdfium2>=5"],
    "browser": ["playwright>=1.50"],
    "serve": ["fastapi>=0.115", "httpcore2>=2", "mcp>=2", "prometheus-client>=0.20", "uvicorn>=0.51"],
    "flash": ["flash-attn>=2.7"],
    "json": ["llguidance>=1"],
    "video": ["av>=12"],
    "lmms-eval": ["lmms-eval>=0.7", "filelock<4"],
    "dev": [
        "av>=12",
        "hypothesis>=6",
        "import-linter>=2.1",
        "llguidance>=1",
        "mypy>=1.15",
        "openai>=2",
        "pytest>=8",
        "ruff>=0.9",
        "setuptools>=77",
        "types-PyYAML>=6",
        "types-tqdm>=4.66",
    ],
}

setup(
    name="vila-hd",
    version=VERSION.group(1),
    description="Vision-language models that look closely at 4K pictures only where the question needs it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["vila_hd", "vila_hd.*", "llava_compat", "llava_compat.*"]),
    package_data={
        "vila_hd": ["py.typed", "assets/**/*", "lens/*.html", "lens/*.css", "lens/*.js"],
        "llava_compat": ["py.typed"],
    },
    install_requires=[
        "ftfy>=6.1",  # the published PS3 text towers were trained on text that it cleaned
        "jinja2>=3.1",  # chat templates
        "numpy>=1.26",
        "packaging>=23",
        "pillow>=10.3",
        "protobuf>=4",  # transformers reads SentencePiece models with it
        "safetensors>=0.4.3",
        "sentencepiece>=0.2",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.0",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["vila-hd = vila_hd.cli:main"],
        "vila_hd.checkpoint_formats": ["vila = llava_compat.formats:PublishedFormat"],
        "lmms_eval.models": ["vila_hd = llava_compat.lmms_eval_manifest:manifests"],
    },
)
