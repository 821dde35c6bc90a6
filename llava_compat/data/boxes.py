"""Boxes of grounded rows: what an answer needs to see, in pixels of the original picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vila_hd.options import Box

from .problems import DataError, brief


def read_boxes(record: Mapping[Any, Any], num_images: int) -> tuple[tuple[Box, ...], ...]:
    """Boxes per picture; () where the row has none.

    Args:
        record: with ``box`` (one box, or a list of boxes, of the only picture) or ``boxes`` (one list of
            boxes per picture).
        num_images: pictures of the row.

    Raises:
        DataError: another form, another number of pictures, or a box without area.
    """
    one, many = record.get("box"), record.get("boxes")
    if one is not None and many is not None:
        raise DataError("both 'box' and 'boxes' are given; keep one of them", kind="box")
    if one is not None:
        if num_images != 1:
            raise DataError(
                f"'box' with {num_images} picture(s): it belongs to exactly one; use 'boxes' with one list "
                "of boxes per picture",
                kind="box",
            )
        nested = _is_list(one) and all(_is_list(entry) for entry in one)
        return (tuple(_box(box) for box in (one if nested else [one])),)
    if many is None:
        return ()
    if not _is_list(many) or not all(_is_list(boxes) for boxes in many):
        raise DataError(f"boxes {brief(many)}; give one list of boxes per picture", kind="box")
    if len(many) != num_images:
        raise DataError(
            f"'boxes' has {len(many)} list(s) for {num_images} picture(s); give one per picture", kind="box"
        )
    return tuple(tuple(_box(box) for box in boxes) for boxes in many)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _box(value: Any) -> Box:
    if not _is_list(value) or len(value) != 4:
        raise DataError(f"box {brief(value)}; give four numbers (x1, y1, x2, y2) in pixels", kind="box")
    try:
        x1, y1, x2, y2 = (math.nan if isinstance(x, bool | str | bytes) else float(x) for x in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"box {brief(value)}; give four numbers (x1, y1, x2, y2) in pixels", kind="box"
        ) from error
    # Also false for NaN.
    if not (0 <= x1 < x2 < math.inf and 0 <= y1 < y2 < math.inf):
        raise DataError(f"box {brief(value)}: expected 0 <= x1 < x2 and 0 <= y1 < y2, in pixels", kind="box")
    return (x1, y1, x2, y2)
