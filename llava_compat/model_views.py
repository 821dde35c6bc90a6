"""The insides of a model as VILA scripts reach for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .tokenizer_files import SENTINEL, VIDEO_TOKEN

if TYPE_CHECKING:
    from .api import VilaModel

MEDIA_NAMES = {"image": "<image>", "video": VIDEO_TOKEN}
"""Kind of media -> the token that stands for it."""


class VisionTower:
    """The published tower's three layers, ``vision_tower.vision_tower.vision_model``, as one view.

    Setting ``max_select_num_each_scale`` sets that of the ``VilaModel``; everything else is read only.
    """

    def __init__(self, owner: "VilaModel") -> None:
        self._owner = owner
        self._vision = owner.model.config.vision_config

    @property
    def vision_tower(self) -> "VisionTower":
        """Itself."""
        return self

    @property
    def vision_model(self) -> "VisionTower":
        """Itself."""
        return self

    @property
    def config(self) -> Any:
        """The tower's config."""
        return self._vision

    @property
    def image_processor(self) -> Any:
        """Resizes pictures for the tower."""
        return self._owner.processor.image_processor

    @property
    def ps3_scales(self) -> list[int]:
        """Scales in pixels, low resolution first."""
        return list(self._vision.ps3_scales)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self._vision.patch_size)

    @property
    def low_res_token_num(self) -> int:
        """Patches of the low-resolution scale."""
        return int(self._owner.model.config.low_res_grid) ** 2

    @property
    def num_patches(self) -> int:
        """Patches of the largest scale."""
        return (self.ps3_scales[-1] // self.patch_size) ** 2

    @property
    def hidden_size(self) -> int:
        """Width of its features."""
        return int(self._vision.hidden_size)

    @property
    def max_select_num_each_scale(self) -> Sequence[int]:
        """Patches of each high-resolution scale in one pass."""
        chosen = self._owner.max_select_num_each_scale
        return list(self._owner.processor.patches_per_pass) if chosen is None else chosen

    @max_select_num_each_scale.setter
    def max_select_num_each_scale(self, split: Sequence[int]) -> None:
        self._owner.max_select_num_each_scale = split


def add_token_names(tokenizer: Any, stop_ids: Sequence[int]) -> None:
    """Give a tokenizer the attributes that the published code gives it."""
    known = tokenizer.get_vocab()
    present = {kind: token for kind, token in MEDIA_NAMES.items() if token in known}
    tokenizer.media_tokens = present
    tokenizer.media_token_ids = {kind: known[token] for kind, token in present.items()}
    tokenizer.stop_token_ids = list(stop_ids)
    tokenizer.stop_tokens = tokenizer.convert_ids_to_tokens(list(stop_ids))
    if SENTINEL in known:
        tokenizer.sentinel_token = SENTINEL
        tokenizer.sentinel_token_id = known[SENTINEL]
