"""What scripts say about a look and what they are told of it, as the published code shapes both."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vila_hd.errors import VilaHDError
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import score_maps
from vila_hd.two_step import Prefill

SelectionMaps = list[Tensor | list[Tensor]]
"""Per high-resolution scale ``(pictures, rows, columns)``; a list of ``(rows, columns)`` where pictures have
grids of different shapes."""


def read_regions(maps: Tensor | np.ndarray | None, num_pictures: int) -> Regions | None:
    """``gt_selection_map`` as regions.

    Args:
        maps: ``(pictures, height, width)``, or ``(height, width)`` for one picture; positive where the model
            must look.
        num_pictures: pictures of the prompt.

    Raises:
        VilaHDError: another shape, another number of pictures, or no numbers.
    """
    if maps is None:
        return None
    try:
        values = torch.as_tensor(maps)
    except (TypeError, ValueError, RuntimeError) as error:
        raise VilaHDError(f"gt_selection_map of type {type(maps).__name__}: use a tensor or array") from error
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) != num_pictures or not values.numel():
        raise VilaHDError(
            f"gt_selection_map of shape {tuple(values.shape)} for {num_pictures} picture(s): use "
            f"({num_pictures}, height, width)"
        )
    return Regions.from_maps(values)


def selection_of(
    prefill: Prefill | None, regions: Regions | None, *, smooth: bool
) -> tuple[SelectionMaps | None, SelectionMaps | None]:
    """``(chosen patches, their probabilities)``; None where nothing was chosen.

    Args:
        prefill: the look; None: there was no picture.
        regions: as they were given to it.
        smooth: as it was chosen with.
    """
    if prefill is None or prefill.selection is None or prefill.scores is None:
        return None, None
    chosen = [[entry.to(prefill.scores.dtype) for entry in look] for look in prefill.selection.maps()]
    probabilities = score_maps(prefill.scores, prefill.selection.grids, regions=regions, smooth=smooth)
    return _by_scale(chosen), _by_scale(probabilities)


def _by_scale(looks: Sequence[Sequence[Tensor]]) -> SelectionMaps:
    """Maps per picture and scale -> per scale."""
    scales: SelectionMaps = []
    for entries in zip(*looks, strict=True):
        same = len({entry.shape for entry in entries}) == 1
        scales.append(torch.stack(entries) if same else list(entries))
    return scales
