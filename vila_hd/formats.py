"""Other layouts of model folders: found through entry points, so that this package knows none of them.

A package registers a class for its layout in the entry-point group ``vila_hd.checkpoint_formats``; ``load``,
``vila-hd info`` and ``vila-hd doctor`` then read such folders like our own.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .checkpoint_files import TensorInfo
from .errors import VilaHDError

if TYPE_CHECKING:
    import torch

    from .configuration_vila_hd import VilaHDConfig
    from .modeling_vila_hd import VilaHDForConditionalGeneration
    from .processing_vila_hd import VilaHDProcessor

GROUP = "vila_hd.checkpoint_formats"
"""Entry-point group of classes that follow ``CheckpointFormat`` and are built without arguments."""

Headers = Mapping[str, Mapping[str, TensorInfo]]
"""Weight file, by its path in the folder -> its tensors."""


class CheckpointFormat(Protocol):
    """One layout of model folders."""

    label: str
    """What people call it."""

    def recognises(self, folder: Path) -> bool:
        """Whether ``folder`` has this layout, judged by its config.json alone. Never raises."""
        ...

    def load(
        self,
        name: str | Path,
        *,
        dtype: "str | torch.dtype",
        device: "str | torch.device | None",
        attn_implementation: str,
        revision: str | None,
        local_files_only: bool,
    ) -> "tuple[VilaHDForConditionalGeneration, VilaHDProcessor]":
        """As ``vila_hd.load``."""
        ...

    def describe(
        self, folder: Path, headers: Headers | None
    ) -> "tuple[VilaHDConfig, VilaHDProcessor, dict[str, TensorInfo]]":
        """Config, processor, and tensors by the names of ``VilaHDForConditionalGeneration``, without weights.
        The tensors' files are named by their paths in ``folder``.

        Args:
            folder: the model's small files.
            headers: of its weight files, where these are elsewhere; None: they are in ``folder``.

        Raises:
            VilaHDError: it is damaged; names what is wrong.
        """
        ...


def find_format(folder: Path) -> CheckpointFormat | None:
    """The registered format that recognises ``folder``; None: it is ours, or nothing that is known.

    Raises:
        VilaHDError: a registered format cannot be imported.
    """
    # Not entry_points(group=...): that lets the metadata that an old build left in a checkout hide the
    # installed.
    every = (entry for installed in importlib.metadata.distributions() for entry in installed.entry_points)
    for entry in (entry for entry in every if entry.group == GROUP):
        try:
            found: CheckpointFormat = entry.load()()
        except (ImportError, AttributeError) as error:
            raise VilaHDError(
                f"the checkpoint format {entry.name!r} cannot be imported "
                f"({' '.join(str(error).split())[:160]}); "
                f"reinstall {entry.dist.name if entry.dist else entry.value}"
            ) from error
        if found.recognises(folder):
            return found
    return None
