"""The arguments of the published PS3 calls: checked, and in the terms of ``vila_hd.ps3``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vila_hd.errors import VilaHDError
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import PatchSelection

Count = int | Literal["all"] | None
"""A number, everything, or not given."""


@dataclass(frozen=True, kw_only=True)
class PublishedCall:
    """The published arguments of one call, checked."""

    num_look_close: Count
    """Passes."""

    num_token_look_close: Count
    """Patches over all passes."""

    first_scales: tuple[int, ...] | None
    """Favoured high-resolution scales, one number per picture."""

    regions: Regions | None
    """Where patches are chosen first."""

    smooth: bool
    """Average the probabilities over 6 x 6 blocks."""

    is_global: Tensor | None
    """``(pictures, 1)`` bool: pool the low-resolution tokens."""

    pool_regions: Regions | None
    """Where high-resolution tokens are pooled; None: everywhere."""

    pretraining: bool
    """One pass and a pooled vector, instead of features."""

    @property
    def low_res_only(self) -> bool:
        """No patches are wanted."""
        return self.num_look_close == 0 or self.num_token_look_close == 0


def check_call(
    pictures: int,
    scales: int,
    *,
    num_look_close: Count,
    num_token_look_close: Count,
    gt_selection_maps: Tensor | None,
    smooth_selection_prob: bool,
    only_select_first_n_scale: int | Sequence[int] | None,
    is_global_text: Tensor | None,
    pool_gt_token_only: bool,
    output_hidden_states: bool,
) -> PublishedCall:
    """The published arguments in the terms of this file; ``llava_compat.ps3.PS3VisionModel`` tells their
    meaning.

    Args:
        pictures: Pictures of the call.
        scales: High-resolution scales of the tower.
        num_look_close: See ``PS3VisionModel.forward``, as for all that follow.
        num_token_look_close: As above.
        gt_selection_maps: As above.
        smooth_selection_prob: As above.
        only_select_first_n_scale: As above.
        is_global_text: As above.
        pool_gt_token_only: As above.
        output_hidden_states: As above.

    Raises:
        VilaHDError: a value that cannot be, or values that contradict each other.
    """
    counts = {"num_look_close": num_look_close, "num_token_look_close": num_token_look_close}
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not (value is None or value == "all" or whole):
            raise VilaHDError(f"{name}={value!r}: use a whole number >= 0, 'all' or None")
    first = _check_first_scales(only_select_first_n_scale, pictures, scales)
    if output_hidden_states and num_look_close is None and num_token_look_close is None:
        raise VilaHDError("neither num_look_close nor num_token_look_close is given: give one of them")
    if not output_hidden_states:
        given = [
            name
            for name, value in {**counts, "only_select_first_n_scale": first}.items()
            if value is not None
        ]
        if given:
            raise VilaHDError(
                f"output_hidden_states=False with {', '.join(given)}: pre-training makes one full pass"
            )
    if pool_gt_token_only and gt_selection_maps is None:
        raise VilaHDError("pool_gt_token_only=True without gt_selection_maps: pass the maps to pool in")
    regions = None
    if gt_selection_maps is not None:
        if gt_selection_maps.ndim != 3 or len(gt_selection_maps) != pictures:
            raise VilaHDError(
                f"gt_selection_maps has shape {tuple(gt_selection_maps.shape)}: "
                f"use ({pictures}, rows, columns)"
            )
        regions = Regions.from_maps(gt_selection_maps, truncate=True)
    if is_global_text is not None:
        if is_global_text.shape not in ((pictures,), (pictures, 1)):
            raise VilaHDError(f"is_global_text has shape {tuple(is_global_text.shape)}: use ({pictures}, 1)")
        is_global_text = is_global_text.bool().view(-1, 1)
    return PublishedCall(
        num_look_close=num_look_close,
        num_token_look_close=num_token_look_close,
        first_scales=first,
        regions=regions,
        smooth=smooth_selection_prob,
        is_global=is_global_text,
        pool_regions=regions if pool_gt_token_only else None,
        pretraining=not output_hidden_states,
    )


def _check_first_scales(
    value: int | Sequence[int] | None, pictures: int, scales: int
) -> tuple[int, ...] | None:
    """One number of favoured scales per picture."""
    if value is None:
        return None
    numbers = (value,) * pictures if isinstance(value, int) else tuple(value)
    valid = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if len(numbers) != pictures or not valid or not all(1 <= number <= scales for number in numbers):
        raise VilaHDError(
            f"only_select_first_n_scale={value!r}: use a number from 1 to {scales}, or one for each of the "
            f"{pictures} picture(s)"
        )
    return numbers


def check_counts(selection: PatchSelection) -> None:
    """Pass when every picture got the same number of patches, as the published layout needs it.

    Raises:
        VilaHDError: they did not; names the numbers.
    """
    counts = selection.mask.sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise VilaHDError(f"the pictures of one call got {counts} patches: encode them in separate calls")
