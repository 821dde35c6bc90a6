"""Packages that are not always there, and packages that are slow to import."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from ..errors import VilaHDError


def is_installed(name: str) -> bool:
    """Whether top-level package ``name`` could be imported. Does not import it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module put into sys.modules by hand has no spec
        return name in sys.modules


def import_optional(name: str, *, extra: str, purpose: str) -> ModuleType:
    """The module ``name``, which only some features need.

    Args:
        name: dotted module name, e.g. ``"peft"``.
        extra: the extra of this distribution that installs it, e.g. ``"train"``.
        purpose: what it is needed for; ends the first half of the error message.

    Raises:
        VilaHDError: it is not installed, or it is but fails to import (a flash-attn built for another torch,
            for example); the message says which.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != name.split(".")[0]:
            raise VilaHDError(
                f"{name} (needed for {purpose}) is installed but needs the missing package {error.name!r}: "
                f"pip install {error.name.split('.')[0]}"
            ) from error
        raise VilaHDError(
            f"{name} (needed for {purpose}) is not installed: pip install 'vila-hd[{extra}]'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VilaHDError(
            f"{name} (needed for {purpose}) is installed but does not import ({reason}): reinstall it for "
            "this torch and Python"
        ) from error


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds one module the usual way, once, and runs a callback after it was imported."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self.name = name
        self.callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute, callback = spec.loader.exec_module, self.callback

        def execute_then_call(module: ModuleType) -> None:
            execute(module)
            callback()

        # On the instance, not in a wrapping loader: importlib.resources must find the loader it expects.
        spec.loader.exec_module = execute_then_call  # type: ignore[method-assign]
        return spec


def after_import(name: str, callback: Callable[[], None]) -> None:
    """Run ``callback`` once ``name`` is imported: now if it is already, else right after someone imports it.

    This is how ``import vila_hd`` makes the auto classes of transformers know our models without importing
    transformers and torch itself (seconds that ``vila-hd --help`` should not take).
    """
    if name in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _AfterImport(name, callback))


class OutermostImports(importlib.abc.MetaPathFinder):
    """Watches imports of a package's modules, and runs a callback after each that no other one waited for.

    At that moment no module of the package is half imported, so the callback may import any of them.
    """

    def __init__(self, package: str, callback: Callable[[], None]) -> None:
        """Watch from now on.

        Args:
            package: its modules are watched, it itself is not.
            callback: run without arguments; its own imports do not run it again.
        """
        self._prefix, self._callback = f"{package}.", callback
        self._depth = 0
        sys.meta_path.insert(0, self)

    @property
    def is_idle(self) -> bool:
        """Whether no module of the package is being imported."""
        return not self._depth

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_inside(module: ModuleType) -> None:
            self._depth += 1
            try:
                execute(module)
                if self._depth == 1:
                    self._callback()
            finally:
                self._depth -= 1

        spec.loader.exec_module = execute_inside  # type: ignore[method-assign]
        return spec
