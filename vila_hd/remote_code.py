"""What lets ``trust_remote_code=True`` load a saved folder in a process that never imported ``vila_hd``.

The folder does not carry a copy of the library, which would age beside the installed one. It carries one
small file that imports the library and says what to install when it is missing.
"""

import json
from pathlib import Path
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
except ImportError as error:
    raise ImportError("this checkpoint needs the package vila-hd: pip install vila-hd") from error

__all__ = ["VilaHDConfig", "VilaHDForConditionalGeneration", "VilaHDModel", "VilaHDProcessor"]
'''


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
