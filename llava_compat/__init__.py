"""Interoperability with LLaVA, VILA and PS3: everything that is named after them lives here.

Names are imported when first used, so that ``import llava_compat`` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import load_checkpoint, save_checkpoint

_MODULE_OF = {"load_checkpoint": "checkpoints", "save_checkpoint": "checkpoints"}

__all__ = ["load_checkpoint", "save_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
