"""What makes ``vila_hd.load``, ``vila-hd info`` and ``vila-hd doctor`` read published VILA-HD folders.

Registered in ``setup.py``; imports nothing heavy before it is asked for something.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from vila_hd.checkpoint_files import TensorInfo
from vila_hd.formats import Headers

from .folders import is_published

if TYPE_CHECKING:
    import torch

    from vila_hd import VilaHDConfig, VilaHDForConditionalGeneration, VilaHDProcessor


class PublishedFormat:
    """The published layout; see ``vila_hd.formats.CheckpointFormat``."""

    label = "the published VILA-HD layout"

    def recognises(self, folder: Path) -> bool:
        """Whether the config.json is one of the VILA family."""
        return is_published(folder)

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
        """The model and its processor; see ``load_checkpoint``."""
        from .checkpoints import load_checkpoint

        return load_checkpoint(
            name,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            revision=revision,
            local_files_only=local_files_only,
        )

    def describe(
        self, folder: Path, headers: Headers | None
    ) -> "tuple[VilaHDConfig, VilaHDProcessor, dict[str, TensorInfo]]":
        """Config, processor and tensors by our names."""
        from .checkpoints import describe_checkpoint

        return describe_checkpoint(folder, headers)
