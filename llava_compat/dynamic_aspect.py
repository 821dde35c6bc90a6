"""``ps3_dynamic_aspect_ratio``: small pictures are not looked at on the largest scale.

The published code applies this in training, and at inference only when the caller passes the sizes of the
pictures; so does this one. Pictures are in two groups there, whose token counts must happen to agree (quirk
19); here the limit is ``HighResOptions.max_scale``, which holds for one call.
"""

from collections.abc import Sequence

from vila_hd.errors import VilaHDError

SMALL_TOWER = 2000
"""Towers whose largest scale is at most this many pixels always use all scales."""


def scale_limit(height: int, width: int, scales: Sequence[int]) -> int | None:
    """``max_scale`` for a picture of this size; None: all scales.

    Args:
        height: of the picture as opened, in pixels.
        width: as ``height``.
        scales: all scales of the tower, low to high.
    """
    high = list(scales[1:])
    if len(high) < 2 or high[-1] <= SMALL_TOWER or max(height, width) > (high[-2] + high[-1]) / 2:
        return None
    return high[-2]


def common_scale_limit(sizes: Sequence[tuple[int, int]], scales: Sequence[int]) -> int | None:
    """``max_scale`` for the pictures of one call; None: all scales.

    Args:
        sizes: (height, width) of each picture as opened, in pixels.
        scales: all scales of the tower, low to high.

    Raises:
        VilaHDError: the pictures need different limits.
    """
    limits = {scale_limit(height, width, scales) for height, width in sizes}
    if len(limits) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sizes)
        raise VilaHDError(
            f"pictures of {shown} pixels: ps3_dynamic_aspect_ratio gives them different scales; ask about "
            "small and "
            "large ones in separate calls, or leave the sizes out"
        )
    return limits.pop() if limits else None
