"""``ps3_dynamic_aspect_ratio``: small pictures are hardly looked at on the largest scale.

The published code applies this in training, and at inference only when the caller passes the sizes of the
pictures; so does this one. Differs from the reference (quirk 19): there, pictures are in two groups whose
numbers of patches must agree, and a size that is not known fails.
"""

from collections.abc import Sequence

from vila_hd.errors import VilaHDError
from vila_hd.ps3.plans import PassPlan, Rounding, plan_passes, plan_passes_published

from .look_settings import LookSettings

SMALL_TOWER = 2000
"""Towers whose largest scale is at most this many pixels always use all scales."""

Size = tuple[int, int] | None
"""(height, width) of a picture as opened, in pixels; None: not known."""

Grids = Sequence[tuple[int, int]]
"""(rows, columns) of patches at each high-resolution scale."""


def favoured_scales(size: Size, scales: Sequence[int]) -> int | None:
    """High-resolution scales that nearly all patches of a picture go to, counted from the lowest; None: all.

    Args:
        size: of the picture.
        scales: all scales of the tower, low to high, in pixels.

    Raises:
        VilaHDError: ``size`` is no pair of positive numbers.
    """
    if size is None:
        return None
    try:
        longest, shortest = max(*size), min(*size)
        good = len(size) == 2 and shortest > 0
    except TypeError:
        good = False
    if not good:
        raise VilaHDError(f"original_image_sizes: {size!r:.60}: use (height, width) in pixels, or None")
    high = list(scales[1:])
    if len(high) < 2 or high[-1] <= SMALL_TOWER or longest > (high[-2] + high[-1]) / 2:
        return None
    return len(high) - 1


def plan_by_sizes(
    sizes: Sequence[Size],
    grids: Sequence[Grids],
    scales: Sequence[int],
    *,
    settings: LookSettings,
    split: Sequence[int],
    rounding: Rounding,
) -> list[PassPlan] | None:
    """Patches of every pass and scale for each picture; None: the sizes change nothing.

    Matches the reference for pictures that leave the largest scale out (its ``only_select_first_n_scale``):
    that one keeps a patch in each pass.

    Args:
        sizes: of each picture.
        grids: of each picture.
        scales: all scales of the tower, low to high, in pixels.
        settings: how closely to look.
        split: patches of each high-resolution scale in one pass of the checkpoint.
        rounding: see ``Rounding``.

    Raises:
        VilaHDError: a size that is none, or settings that mean nothing.
    """
    favoured = [favoured_scales(size, scales) for size in sizes]
    options = settings.to_options(split)
    if options.budget == 0 or not any(favoured):
        return None
    shares = options.per_scale or split
    plans = []
    for first, look in zip(favoured, grids, strict=True):
        patches = [rows * columns for rows, columns in look]
        if first is None:
            plans.append(plan_passes(patches, shares, budget=options.budget, rounding=rounding))
            continue
        by_number = settings.num_token_look_close is not None
        plans.append(
            plan_passes_published(
                patches,
                shares,
                num_passes=None if by_number else settings.num_look_close or 1,
                num_patches=settings.num_token_look_close,
                first_scales=first,
                rounding=rounding,
            )
        )
    return plans
