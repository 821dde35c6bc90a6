"""Makes the auto classes of transformers know our classes, without importing transformers before the user
does.

Our modules register their classes as their last statement. All of them are imported right after transformers
is, when none of its parts is half imported yet; or, when it is one of ours that imports transformers, once
that one is finished.
"""

import importlib
import sys

from .utils.imports import after_import

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

_finished: set[str] = set()


def register_on_import() -> None:
    """Arrange everything. Called once, when the package is imported."""
    for name in _OURS:
        _after_one_of_ours(name)
    after_import("transformers", _import_ours)


def _after_one_of_ours(name: str) -> None:
    def react() -> None:
        _finished.add(name)
        if "transformers" in sys.modules:
            _import_ours()

    after_import(name, react)


def _import_ours() -> None:
    if any(name in sys.modules and name not in _finished for name in _OURS):
        return  # one is half imported: its end calls this again
    for name in _OURS:
        importlib.import_module(name)
