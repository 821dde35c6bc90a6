"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vila_hd.errors import VilaHDError

MARGIN = 2**26
"""Bytes that stay free beside what is written."""


def require_new(path: Path) -> None:
    """Pass when nothing would be overwritten.

    Raises:
        VilaHDError: ``path`` exists and is no empty folder.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise VilaHDError(f"{path}: exists already; name a new or empty folder")


def require_space(path: Path, size: int) -> None:
    """Pass when ``size`` bytes fit where ``path`` will be.

    Raises:
        VilaHDError: they do not; names both numbers.
    """
    place = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if size + MARGIN > free:
        raise VilaHDError(
            f"{path}: needs {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free at {place}; make "
            "room or write "
            "elsewhere"
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``path`` at the end, and vanishes on any error before.

    Raises:
        VilaHDError: ``path`` exists already, or cannot be written.
    """
    require_new(path)
    partial = None
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.absolute().parent))
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        partial.rename(path)
        partial = None
    except OSError as error:
        raise VilaHDError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
