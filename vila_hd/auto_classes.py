"""Makes the auto classes of transformers know our classes, without importing transformers before the user
does.

Our modules register their classes as their last statement. All of them are imported right after transformers
is, when none of its parts is half imported yet; or, when it is one of ours that imports transformers, once no
module of ours is half imported any more.
"""

import importlib
import sys

from .utils.imports import OutermostImports, after_import

_PACKAGE = __name__.rpartition(".")[0]

_OURS = [
    f"{_PACKAGE}.{module}"
    for module in (
        "ps3.configuration_ps3",
        "ps3.configuration_ps3_text",
        "ps3.configuration_ps3_dual",
        "ps3.image_processing_ps3",
        "ps3.tokenization_ps3",
        "ps3.modeling_ps3",
        "ps3.modeling_ps3_text",
        "ps3.modeling_ps3_dual",
        "towers.configuration_towers",
        "towers.modeling_towers",
        "configuration_vila_hd",
        "modeling_vila_hd",
        "processing_vila_hd",
    )
]
"""Modules that register classes."""


def register_on_import() -> None:
    """Arrange everything. Called once, when the package is imported."""
    ours = OutermostImports(_PACKAGE, lambda: _import_ours() if "transformers" in sys.modules else None)
    after_import("transformers", lambda: _import_ours() if ours.is_idle else None)


def _import_ours() -> None:
    for name in _OURS:
        importlib.import_module(name)
