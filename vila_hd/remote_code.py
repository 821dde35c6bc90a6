"""What lets ``trust_remote_code=True`` load a saved folder in a process that never imported ``vila_hd``.

The folder does not carry a copy of the library, which would age beside the installed one. It carries one
small file that imports the library and says what to install when it is missing.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "vila_hd_loader"
"""Name, without ``.py``, of the file in a saved folder."""

MODEL_AUTO_MAP = {
    "AutoConfig": f"{MODULE}.VilaHDConfig",
    "AutoModel": f"{MODULE}.VilaHDModel",
    "AutoModelForImageTextToText": f"{MODULE}.VilaHDForConditionalGeneration",
    "AutoProcessor": f"{MODULE}.VilaHDProcessor",
}
"""Auto class -> class in the saved folder, for ``config.json``."""

PROCESSOR_AUTO_MAP = {"AutoProcessor": f"{MODULE}.VilaHDProcessor"}
"""The same for ``processor_config.json``."""

SOURCE = '''"""Loads this checkpoint with the package vila-hd, for trust_remote_code=True."""

try:
    from vila_hd import VilaHDConfig, VilaHDForConditionalGeneration, VilaHDModel, VilaHDProcessor
    from vila_hd.remote_code import make_known_by_name
except ImportError as error:
    raise ImportError("this checkpoint needs the package vila-hd: pip install vila-hd") from error

make_known_by_name()

__all__ = ["VilaHDConfig", "VilaHDForConditionalGeneration", "VilaHDModel", "VilaHDProcessor"]
'''


def make_known_by_name() -> None:
    """Let `transformers serve` find the model: it looks classes up by name, not through the auto classes.

    Called by the loader file of a saved folder only, that is, after the user has asked for remote code.
    See load_model_and_processor and get_model_modality in transformers/cli/serving/model_manager.py (5.23).
    """
    from transformers.models.auto import modeling_auto

    from .modeling_vila_hd import VilaHDForConditionalGeneration

    name = VilaHDForConditionalGeneration.__name__
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["vila_hd"] = name
    # transformers/__init__.py may run twice and leave two modules; what was imported early holds the first.
    theirs = [module for key, module in list(sys.modules.items()) if key.partition(".")[0] == "transformers"]
    roots = [
        module if module.__name__ == "transformers" else vars(module).get("transformers") for module in theirs
    ]
    for root in roots:
        if isinstance(root, ModuleType):
            setattr(root, name, VilaHDForConditionalGeneration)


def add_remote_code(folder: Path) -> None:
    """Put the loader file into ``folder`` and name it in the JSON files there."""
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="ascii")
    for name, auto_map in (("config.json", MODEL_AUTO_MAP), ("processor_config.json", PROCESSOR_AUTO_MAP)):
        path = folder / name
        if path.exists():
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values.get("auto_map") != auto_map:
                values["auto_map"] = auto_map
                path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
