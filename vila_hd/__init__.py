"""VILA-HD: a multi-modal language model that looks closely where the question asks it to.

Names are imported when first used, so that ``import vila_hd`` takes no time. Once transformers is imported,
its auto classes (``AutoProcessor``, ``AutoModelForImageTextToText``, ...) know the models of this package.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto_classes import register_on_import
from .errors import VilaHDError
from .options import HighResOptions
from .version import __version__

if TYPE_CHECKING:
    from .composing import compose
    from .configuration_vila_hd import VilaHDConfig
    from .generation import Answer, ask, stream
    from .loading import load
    from .modeling_vila_hd import VilaHDForConditionalGeneration, VilaHDModel
    from .processing_vila_hd import VilaHDProcessor, add_pictures_to_template
    from .receipt import Look, Receipt

_MODULE_OF = {
    "Answer": "generation",
    "Look": "receipt",
    "Receipt": "receipt",
    "VilaHDConfig": "configuration_vila_hd",
    "VilaHDForConditionalGeneration": "modeling_vila_hd",
    "VilaHDModel": "modeling_vila_hd",
    "VilaHDProcessor": "processing_vila_hd",
    "add_pictures_to_template": "processing_vila_hd",
    "ask": "generation",
    "compose": "composing",
    "load": "loading",
    "stream": "generation",
}

__all__ = [
    "Answer",
    "HighResOptions",
    "Look",
    "Receipt",
    "VilaHDConfig",
    "VilaHDError",
    "VilaHDForConditionalGeneration",
    "VilaHDModel",
    "VilaHDProcessor",
    "__version__",
    "add_pictures_to_template",
    "ask",
    "compose",
    "load",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_on_import()
