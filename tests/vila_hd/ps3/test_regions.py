"""Regions on grids: a cell counts when some of its area is covered."""

import pytest
import torch

from vila_hd.errors import VilaHDError
from vila_hd.ps3.regions import Regions


def test_box_covers_the_cells_it_overlaps():
    on = Regions.from_boxes([torch.tensor([[0.3, 0.0, 0.6, 0.2]])]).on_grid(4, 4)
    assert on[0].int().tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("cells", [3, 7, 9, 48, 240])
def test_box_on_cell_borders_does_not_spill(cells):
    box = torch.tensor([[1 / cells, 1 / cells, 2 / cells, 2 / cells]], dtype=torch.float64)
    on = Regions.from_boxes([box]).on_grid(cells, cells)
    assert on.sum() == 1
    assert on[0, 1, 1]


def test_looks_may_have_different_numbers_of_boxes():
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.9, 0.9, 1.0, 1.0]])]
    on = Regions.from_boxes(boxes).on_grid(2, 2)
    assert on.flatten(1).int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 1]]


def test_boxes_equal_the_maps_they_draw():
    drawn = torch.zeros(1, 60, 60)
    drawn[0, 13:40, 5:9] = 1
    box = torch.tensor([[5 / 60, 13 / 60, 9 / 60, 40 / 60]])
    for grid in ((6, 6), (4, 10), (60, 60)):
        assert torch.equal(Regions.from_boxes([box]).on_grid(*grid), Regions.from_maps(drawn).on_grid(*grid))


def test_integer_maps_lose_partly_covered_cells_only_on_demand():
    drawn = torch.zeros(1, 8, 8, dtype=torch.long)
    drawn[0, :3, :3] = 1
    assert Regions.from_maps(drawn).on_grid(4, 4).sum() == 4
    assert Regions.from_maps(drawn, truncate=True).on_grid(4, 4).sum() == 1
    assert Regions.from_maps(drawn.float(), truncate=True).on_grid(4, 4).sum() == 4


def test_scales_follow_the_first_one():
    regions = Regions.from_boxes([torch.tensor([[0.1, 0.1, 0.15, 0.15]])])
    first, second = regions.on_scales([(4, 4), (8, 8)])
    assert first.sum() == 1
    assert second.sum() == 4


def test_subset_keeps_the_order_given():
    regions = Regions.from_boxes([torch.tensor([[0.0, 0.0, 0.4, 0.4]]), torch.tensor([[0.6, 0.6, 1.0, 1.0]])])
    assert len(regions) == 2
    assert torch.equal(regions.subset([1, 0]).on_grid(2, 2), regions.on_grid(2, 2).flip(0))


def test_wrong_shape_is_named():
    with pytest.raises(VilaHDError, match=r"look 1 have shape \(4,\)"):
        Regions.from_boxes([torch.zeros(0, 4), torch.zeros(4)])
