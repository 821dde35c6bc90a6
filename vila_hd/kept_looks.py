"""Patches that were looked at, encoded, so that a later question can add more to them."""

from dataclasses import dataclass

from torch import Tensor

from .ps3.outputs import HighRes
from .ps3.selection import PatchSelection, join_choices


@dataclass(frozen=True, eq=False)
class KeptLooks:
    """What one answer looked at. Passes do not read each other, so it holds beside any other choice."""

    selection: PatchSelection
    """Which patches each look chose."""

    high: HighRes
    """What the tower made of them."""

    layers: tuple[int, ...]
    """Blocks whose outputs ``high`` holds."""

    def add(self, selection: PatchSelection, high: HighRes) -> "KeptLooks":
        """These patches and others of the same looks, none of which is among them."""
        joined = join_choices(self.selection, selection)
        is_new = joined.passes > self.selection.num_passes

        def together(old: Tensor, new: Tensor) -> Tensor:
            # Both orders are ascending in the place of a patch, as is the joined one.
            both = new.new_zeros(*joined.index.shape, new.shape[-1])
            both[is_new] = new[selection.mask]
            both[joined.mask & ~is_new] = old[self.selection.mask]
            return both

        pairs = zip(self.high.features, high.features, strict=True)
        return KeptLooks(joined, HighRes(features=tuple(together(*pair) for pair in pairs)), self.layers)
