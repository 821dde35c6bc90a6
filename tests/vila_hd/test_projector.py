"""Cells, projectors and embeddings against dense re-computations."""

import math

import pytest
import torch
import torch.nn.functional as F

from vila_hd.projector import VilaHDProjector, complete_cells
from vila_hd.testing import tiny_config

GRIDS = (((4, 6), (8, 12)), ((5, 3), (10, 7)))
SIZES = [sum(rows * columns for rows, columns in look) for look in GRIDS]


def choose(share: float, seed: int = 0) -> torch.Tensor:
    """``(2, K)`` random patches, ascending, padded with -1."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(n, generator=generator)[: round(share * n)].sort().values for n in SIZES]
    width = max(map(len, rows))
    return torch.stack([F.pad(row, (0, width - len(row)), value=-1) for row in rows])


def whole_cells(index: torch.Tensor, look: int, side: int) -> list[tuple[int, int, int]]:
    """(scale, row, column) of every cell whose existing patches were all chosen, by plain loops."""
    chosen, start, found = set(index[look].tolist()), 0, []
    for scale, (rows, columns) in enumerate(GRIDS[look]):
        for row in range(math.ceil(rows / side)):
            for column in range(math.ceil(columns / side)):
                patches = [
                    start + r * columns + c
                    for r in range(row * side, min((row + 1) * side, rows))
                    for c in range(column * side, min((column + 1) * side, columns))
                ]
                if chosen.issuperset(patches):
                    found.append((scale, row, column))
        start += rows * columns
    return found


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_cells_are_kept_when_all_their_patches_were_chosen(side: int, share: float) -> None:
    index = choose(share)
    cells = complete_cells(index, GRIDS, side)
    columns = (cells.look, cells.scale, cells.row, cells.column)
    places = list(zip(*(column.tolist() for column in columns), strict=True))
    expected = [(look, *place) for look in (0, 1) for place in whole_cells(index, look, side)]
    assert places == expected
    assert cells.counts == tuple(len(whole_cells(index, look, side)) for look in (0, 1))


def test_patches_of_a_cell_come_row_by_row_with_padding_beyond_the_edge() -> None:
    index = torch.arange(SIZES[1])[None]
    cells = complete_cells(index, GRIDS[1:], 2)
    # The 5 x 3 grid: its last cell (row 2, column 1) holds patch (4, 2) only.
    at = cells.counts and [
        i for i in range(len(cells.row)) if (cells.scale[i], cells.row[i], cells.column[i]) == (0, 2, 1)
    ]
    assert cells.patches[at].tolist() == [[14, -1, -1, -1]]
    assert cells.patches[0].tolist() == [0, 1, 3, 4]


def test_published_rule_follows_adaptive_windows_and_agrees_on_whole_grids() -> None:
    everything_but_one = torch.tensor([[i for i in range(100) if i != 22]])
    windows = complete_cells(everything_but_one, (((10, 10),),), 3, "published")
    # Windows of a side of 10 are [0,3) [2,5) [5,8) [7,10): patch (2, 2) lies in 2 x 2 of them.
    assert windows.counts == (12,)
    assert complete_cells(everything_but_one, (((10, 10),),), 3).counts == (15,)
    index = choose(0.7)[:1]
    for side in (1, 2):
        ours, published = (complete_cells(index, GRIDS[:1], side, rule) for rule in ("whole", "published"))
        assert torch.equal(ours.patches, published.patches)


def dense_tokens(projector: VilaHDProjector, maps: torch.Tensor, scale: int) -> torch.Tensor:
    """Project a full grid ``(rows, columns, width)`` and add embeddings: what the gathered way must equal."""
    rows, columns, width = maps.shape
    side, grid = projector.side, projector.low_grid
    out = (math.ceil(rows / side), math.ceil(columns / side))
    padded = F.pad(maps, (0, 0, 0, out[1] * side - columns, 0, out[0] * side - rows))
    cells = padded.view(out[0], side, out[1], side, width).transpose(1, 2).reshape(*out, -1)
    table = projector.high_res_pos_embed.view(1, grid, grid, -1).permute(0, 3, 1, 2)
    position = F.interpolate(table, out, mode="area")[0].permute(1, 2, 0)
    return projector.layers(cells) + position + projector.high_res_scale_embed[scale]


@pytest.mark.parametrize(
    "projector_type", ["mlp_downsample", "mlp_downsample_3x3_fix", "mlp1x_gelu", "mlp3x_gelu", "linear"]
)
@torch.no_grad()
def test_gathered_projection_equals_the_dense_one(projector_type: str) -> None:
    torch.manual_seed(0)
    projector = VilaHDProjector(tiny_config(projector_type=projector_type))
    for parameter in projector.parameters():
        parameter.normal_(std=0.3)
    index = choose(0.8)
    features = torch.randn(*index.shape, 32)
    cells = complete_cells(index, GRIDS, projector.side)
    tokens = projector.project_cells(features, cells).split(list(cells.counts))
    for look, scales in enumerate(GRIDS):
        full = torch.zeros(SIZES[look], 32)
        full[index[look][index[look] >= 0]] = features[look][index[look] >= 0]
        expected = []
        dense = [
            dense_tokens(projector, part.view(rows, columns, -1), scale + 1)
            for scale, (part, (rows, columns)) in enumerate(
                zip(full.split([r * c for r, c in scales]), scales, strict=True)
            )
        ]
        expected = [
            dense[scale][row, column] for scale, row, column in whole_cells(index, look, projector.side)
        ]
        torch.testing.assert_close(tokens[look], torch.stack(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_low_res_grid_that_is_no_multiple_is_padded_at_the_bottom_and_right() -> None:
    projector = VilaHDProjector(tiny_config(projector_type="mlp_downsample_3x3_fix"))
    for parameter in projector.parameters():
        parameter.normal_(std=0.3)
    features = torch.randn(2, 16, 32)
    tokens = projector.project_low_res(features)
    expected = dense_tokens(projector, features[1].view(4, 4, 32), 0).flatten(0, 1)
    torch.testing.assert_close(tokens[1], expected.view(4, -1), atol=1e-5, rtol=1e-5)


def test_positions_get_gradients_only_where_cells_are_kept() -> None:
    projector = VilaHDProjector(tiny_config())
    cells = complete_cells(torch.tensor([[0, 1, 8, 9]]), (((8, 8), (16, 16)),), 2)
    assert cells.counts == (1,)
    projector.project_cells(torch.randn(1, 4, 32), cells).sum().backward()
    touched = projector.high_res_pos_embed.grad[0].abs().sum(-1).nonzero()[:, 0].tolist()
    assert touched == [0]


def test_nothing_kept_keeps_every_parameter_in_the_graph() -> None:
    projector = VilaHDProjector(tiny_config())
    cells = complete_cells(torch.tensor([[0]]), (((8, 8), (16, 16)),), 2)
    projector.project_cells(torch.randn(1, 1, 32), cells).sum().backward()
    missing = [name for name, p in projector.named_parameters() if p.grad is None]
    assert all(name.startswith("top_down_prompt_head") for name in missing)
