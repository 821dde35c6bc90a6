"""Position tables at chosen places equal the stretched table."""

import pytest
import torch
from torch.nn import functional as F

from vila_hd.ps3.embeddings import PatchProjection, positions_at, sine_positions, to_pixels


@pytest.mark.parametrize("grid", [4, 5, 13, 54, 3])
def test_chosen_positions_equal_the_stretched_table(grid):
    table = torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(0))
    square = table.view(1, 4, 4, 6).permute(0, 3, 1, 2)
    dense = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    found = positions_at(table, grid, rows.flatten(), columns.flatten(), crop=False)
    torch.testing.assert_close(found, dense[0].flatten(1).T, atol=2e-5, rtol=0)


def test_cropped_table_is_read_at_the_same_place():
    table = torch.randn(1, 25, 3)
    found = positions_at(table, 2, torch.tensor([1]), torch.tensor([0]), crop=True)
    assert torch.equal(found[0], table[0, 5])


def test_gradients_reach_the_table():
    table = torch.zeros(1, 16, 3, requires_grad=True)
    positions_at(table, 9, torch.tensor([0, 8]), torch.tensor([0, 3]), crop=False).sum().backward()
    torch.testing.assert_close(table.grad.sum(), torch.tensor(6.0))


def test_new_positions_tell_every_place_and_are_alike_where_places_are_near():
    side = 6
    table = sine_positions(side, 32)
    assert table.shape == (1, side * side, 32)
    distance = torch.cdist(table[0], table[0])
    assert (distance + torch.eye(side * side)).min() > 0.5
    assert distance[0, 1] < distance[0, 2:side].min()  # to the right in the first row
    assert distance[0, side] < distance[0, 2 * side :: side].min()  # down the first column


def test_new_positions_of_an_odd_width_end_in_zeros():
    table = sine_positions(3, 10)
    assert torch.equal(table[..., :8], sine_positions(3, 8))
    assert not table[..., 8:].any()


def test_projection_equals_the_convolution():
    projection = PatchProjection(5, 4)
    picture = torch.randn(1, 3, 8, 8)
    expected = torch.nn.Conv2d.forward(projection, picture)[0].flatten(1).T
    patches = F.unfold(picture, 4, stride=4)[0].T.view(4, 3, 4, 4)
    torch.testing.assert_close(projection(patches), expected, atol=1e-5, rtol=0)


def test_raw_pixels_are_normalised():
    raw = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 3, 1, 1)
    out = to_pixels(raw, [0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    torch.testing.assert_close(out[0, :, 0], torch.tensor([[-1.0, 1.0], [-1.0, 3.0], [0.0, 1.0]]))
