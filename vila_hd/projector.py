"""From tower features to visual tokens: squares of patches -> MLP -> position and scale embeddings; the
prompt head.

High-resolution squares ("cells") are gathered first and projected second: the cost follows the budget, not
the grid.

Shape suffixes used in this file:
    B = pictures, L = looks, K = chosen patches per look (padded), M = kept cells of all looks together,
    R = patches per cell (1, 4 or 9), S = high-resolution scales, C = tower width, D = language-model width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_vila_hd import VilaHDConfig
from .ps3.selection import PatchSelection

Grids = Sequence[Sequence[tuple[int, int]]]
"""Per look, per high-resolution scale: (rows, columns) of the patch grid."""


@dataclass(frozen=True)
class Cells:
    """The visual tokens that a choice of patches yields, look by look, scale ascending, row-major in a
    scale."""

    look: Tensor
    """Look of each cell, ascending."""

    scale: Tensor
    """High-resolution scale of each cell, 0 is the lowest."""

    row: Tensor
    column: Tensor

    grid: Tensor
    """(rows, columns) of cells in the cell's grid."""

    patches: Tensor
    """Where each patch of the cell stands among the look's chosen patches; -1: padding beyond the grid's
    edge."""

    counts: tuple[int, ...]
    """Cells per look."""


class _GridIndex:
    """Arithmetic between flat patch indices and cells for looks with different grids, without loops over
    looks."""

    def __init__(self, grids: Grids, side: int, device: torch.device) -> None:
        self.side = side
        self.grid_LS2 = torch.tensor([[list(grid) for grid in look] for look in grids], device=device)
        self.cell_grid_LS2 = (self.grid_LS2 + side - 1) // side
        self.patch_start_LS = _exclusive_cumsum(self.grid_LS2.prod(-1))
        cells_LS = self.cell_grid_LS2.prod(-1)
        self.cell_start_LS = _exclusive_cumsum(cells_LS)
        self.num_cells = max(sum(math.prod(-(-n // side) for n in grid) for grid in look) for look in grids)

    def locate(self, start_LS: Tensor, grid_LS2: Tensor, index_LN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, row and column (each ``(L, N)``) of flat indices."""
        scale_LN = (index_LN[:, :, None] >= start_LS[:, None, 1:]).sum(-1)
        local_LN = index_LN - start_LS.gather(1, scale_LN)
        columns_LN = grid_LS2[..., 1].gather(1, scale_LN).clamp(min=1)
        return scale_LN, local_LN // columns_LN, local_LN % columns_LN


def complete_cells(
    index_LK: Tensor, grids: Grids, side: int, rule: Literal["whole", "published"] = "whole"
) -> Cells:
    """The cells of ``side`` x ``side`` patches that a choice of patches fills.

    Args:
        index_LK: ``(L, K)`` flat patch indices (high scales ascending, row-major inside a scale), -1 for
        padding.
        grids: patch grid per look and scale.
        side: side of a cell in patches; grids are padded at the bottom and right to a multiple of it.
        rule: ``whole``: every patch of the cell that exists was chosen. ``published``: every patch in the
            window that adaptive average pooling gives the cell was chosen; the same where ``side`` divides
            the grid.
    """
    where = _GridIndex(grids, side, index_LK.device)
    position_LCR, exists_LCR = _fill(index_LK, where)
    complete_LC = ((position_LCR >= 0) == exists_LCR).all(-1) & exists_LCR.any(-1)
    if rule == "published" and bool((where.grid_LS2 % side != 0).any()):
        complete_LC = _complete_windows(index_LK, grids, side, where.num_cells)
    look_M, cell_M = complete_LC.nonzero(as_tuple=True)
    index_M1 = cell_M[:, None]
    scale_M1, row_M1, column_M1 = where.locate(
        where.cell_start_LS[look_M], where.cell_grid_LS2[look_M], index_M1
    )
    return Cells(
        look=look_M,
        scale=scale_M1[:, 0],
        row=row_M1[:, 0],
        column=column_M1[:, 0],
        grid=where.cell_grid_LS2[look_M, scale_M1[:, 0]],
        patches=position_LCR[look_M, cell_M],
        counts=tuple(complete_LC.sum(1).tolist()),
    )


def fill_empty_looks(values_MX: Tensor, cells: Cells, counts: Sequence[int], filler_LX: Tensor) -> Tensor:
    """Values of all cells look by look; a look with more tokens (``counts``) than cells gets its filler."""
    empty = [look for look, count in enumerate(counts) if count > cells.counts[look]]
    if not empty:
        return values_MX
    empty_E = torch.tensor(empty, device=values_MX.device)
    order = torch.cat([cells.look, empty_E]).argsort(stable=True)
    return torch.cat([values_MX, filler_LX[empty_E]])[order]


def _fill(index_LK: Tensor, where: _GridIndex) -> tuple[Tensor, Tensor]:
    """Per cell and slot: position among the chosen patches (-1: not chosen), and whether such a patch
    exists."""
    looks, side = len(index_LK), where.side
    scale_LK, row_LK, column_LK = where.locate(where.patch_start_LS, where.grid_LS2, index_LK.clamp(min=0))
    cell_columns_LK = where.cell_grid_LS2[..., 1].gather(1, scale_LK)
    cell_LK = where.cell_start_LS.gather(1, scale_LK) + row_LK // side * cell_columns_LK + column_LK // side
    slot_LK = cell_LK * side**2 + row_LK % side * side + column_LK % side
    # Padding (-1) goes to one extra slot at the end that is cut off again.
    slots = where.num_cells * side**2
    slot_LK = slot_LK.masked_fill(index_LK < 0, slots)
    position_LN = index_LK.new_full((looks, slots + 1), -1)
    order_LK = torch.arange(index_LK.shape[1], device=index_LK.device).expand_as(index_LK)
    position_LN.scatter_(1, slot_LK, order_LK)
    position_LCR = position_LN[:, :-1].view(looks, where.num_cells, side**2)

    cell_LC = torch.arange(where.num_cells, device=index_LK.device).expand(looks, -1)
    scale_LC, row_LC, column_LC = where.locate(where.cell_start_LS, where.cell_grid_LS2, cell_LC)
    offset_R = torch.arange(side**2, device=index_LK.device)
    patch_row_LCR = row_LC[..., None] * side + offset_R // side
    patch_column_LCR = column_LC[..., None] * side + offset_R % side
    rows_LC1 = where.grid_LS2[..., 0].gather(1, scale_LC)[..., None]
    columns_LC1 = where.grid_LS2[..., 1].gather(1, scale_LC)[..., None]
    return position_LCR, (patch_row_LCR < rows_LC1) & (patch_column_LCR < columns_LC1)


def _complete_windows(index_LK: Tensor, grids: Grids, side: int, num_cells: int) -> Tensor:
    # Matches the reference's `area` interpolation of the 0/1 selection map; a loop, because only odd grids
    # need it.
    complete_LC = torch.zeros(len(grids), num_cells, dtype=torch.bool, device=index_LK.device)
    for look, scales in enumerate(grids):
        chosen_T = torch.zeros(sum(rows * columns for rows, columns in scales), device=index_LK.device)
        chosen_T[index_LK[look][index_LK[look] >= 0]] = 1
        start, cell = 0, 0
        for rows, columns in scales:
            map_11HW = chosen_T[start : start + rows * columns].view(1, 1, rows, columns)
            share = F.adaptive_avg_pool2d(1 - map_11HW, (-(-rows // side), -(-columns // side))).flatten()
            complete_LC[look, cell : cell + len(share)] = share == 0
            start, cell = start + rows * columns, cell + len(share)
    return complete_LC


def _exclusive_cumsum(x_LS: Tensor) -> Tensor:
    return x_LS.cumsum(1) - x_LS


def cells_of(selection: PatchSelection, config: VilaHDConfig) -> Cells:
    """The visual tokens that a choice of patches yields in a model; none reaches beyond its tile."""
    index, grids = (selection.index, selection.grids) if selection.tile is None else selection.by_tile()
    return complete_cells(index, grids, config.downsample, config.cell_rule)


def count_tokens(cells: Cells, selection: PatchSelection) -> tuple[int, ...]:
    """Visual tokens of each look: its cells; one where it has patches, but they fill no cell."""
    chosen = selection.mask.any(1).tolist()
    return tuple(max(count, int(some)) for count, some in zip(cells.counts, chosen, strict=True))


class VilaHDProjector(nn.Module):
    """Tower features -> visual tokens, and language-model states -> prompts of the tower.

    Parameter names are those of the published ``mm_projector`` folders.
    """

    def __init__(self, config: VilaHDConfig) -> None:
        super().__init__()
        self.side = config.downsample
        self.low_grid = config.low_res_grid
        self.cell_rule = config.cell_rule
        width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
        self.layers = _build_layers(config.projector_type, config.vision_config.feature_width, hidden)
        if config.prompt_head is not None:
            self.top_down_prompt_head = (
                PromptHead(hidden, width) if config.prompt_head == "mlp" else PromptLinear(hidden, width)
            )
        self.has_positions = config.high_res_position
        if config.high_res_position:
            self.high_res_pos_embed = nn.Parameter(torch.zeros(1, self.low_grid**2, hidden))
            self.high_res_scale_embed = ScaleEmbeddings(
                nn.Parameter(torch.zeros(1, 1, hidden)) for _ in config.vision_config.ps3_scales
            )

    def project_low_res(self, features_BNC: Tensor) -> Tensor:
        """Tokens ``(B, low_res_tokens, D)`` of low-resolution features ``(B, g0 * g0, C)``."""
        batch, tokens, width = features_BNC.shape
        side, grid = self.side, self.low_grid
        out = -(-grid // side)
        if tokens != grid**2:
            raise ValueError(f"expected {grid**2} low-resolution patches, got {tokens}")
        x = features_BNC.view(batch, grid, grid, width)
        x = F.pad(x, (0, 0, 0, out * side - grid, 0, out * side - grid))
        # Order inside a cell: row offset, column offset, channel.
        x = x.view(batch, out, side, out, side, width).transpose(2, 3).reshape(batch, out**2, side**2 * width)
        x_BND = self.layers(x)
        if self.has_positions:
            table = self.high_res_pos_embed.view(1, grid, grid, -1).permute(0, 3, 1, 2)
            position = F.interpolate(table.float(), (out, out), mode="area").flatten(2).transpose(1, 2)
            x_BND = x_BND + position.to(x_BND.dtype) + self.high_res_scale_embed[0]
        return x_BND

    def project_cells(self, features_LKC: Tensor, cells: Cells) -> Tensor:
        """Tokens ``(M, D)`` of the kept cells of high-resolution features ``(L, K, C)``."""
        looks, chosen, width = features_LKC.shape
        # Rows of one flat table; the extra row of zeros at the end stands for padding beyond the edge.
        flat = torch.cat([features_LKC.reshape(-1, width), features_LKC.new_zeros(1, width)])
        index_MR = cells.look[:, None] * chosen + cells.patches
        index_MR = index_MR.masked_fill(cells.patches < 0, looks * chosen)
        x_MD = self.layers(flat[index_MR].flatten(1))
        if self.has_positions:
            scales_SD = torch.cat([embedding[0] for embedding in self.high_res_scale_embed])
            x_MD = x_MD + self._positions_at(cells).to(x_MD.dtype) + scales_SD[cells.scale + 1]
        return x_MD

    def prompt(self, states_LD: Tensor) -> Tensor:
        """Prompts ``(L, C)`` for the tower from language-model states ``(L, D)``."""
        return self.top_down_prompt_head(states_LD)

    def _positions_at(self, cells: Cells) -> Tensor:
        """``area`` interpolation of the position table to each cell's grid, evaluated at the cells only, in
        fp32."""
        grid = self.low_grid
        table_ND = self.high_res_pos_embed[0].float()
        first_row, height = _window(cells.row, cells.grid[:, 0], grid)
        first_column, width = _window(cells.column, cells.grid[:, 1], grid)
        total_MD = table_ND.new_zeros(len(cells.row), table_ND.shape[1])
        if not len(total_MD):
            # Not a shortcut: the table must take part in the graph on every rank.
            return total_MD + 0 * table_ND[:1].sum()
        for i in range(int(height.max())):
            for j in range(int(width.max())):
                inside_M = (i < height) & (j < width)
                row_M, column_M = (first_row + i).clamp(max=grid - 1), (first_column + j).clamp(max=grid - 1)
                total_MD = total_MD + table_ND[row_M * grid + column_M] * inside_M[:, None]
        return total_MD / (height * width)[:, None]


def _window(at_M: Tensor, size_M: Tensor, source: int) -> tuple[Tensor, Tensor]:
    """First source index and number of source entries that adaptive pooling averages for output ``at`` of
    ``size``."""
    first_M = at_M * source // size_M
    return first_M, ((at_M + 1) * source + size_M - 1) // size_M - first_M


class ScaleEmbeddings(nn.ParameterList):
    """One ``(1, 1, D)`` table per scale, low resolution first; a type of its own for initialisation."""


class PromptLinear(nn.Linear):
    """A layer of the prompt head; a type of its own for initialisation."""


class PromptHead(nn.Module):
    """fc1 -> GELU -> LayerNorm -> fc2, twice as wide inside as the tower."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1 = PromptLinear(hidden, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.fc2 = PromptLinear(2 * width, width)

    def forward(self, states_LD: Tensor) -> Tensor:
        """``(L, D)`` -> ``(L, C)``."""
        return self.fc2(self.norm(F.gelu(self.fc1(states_LD))))


def _build_layers(projector_type: str, width: int, hidden: int) -> nn.Module:
    # Index 0 of the downsampling projectors is a parameter-free block in the published models.
    if projector_type in ("mlp_downsample", "mlp_downsample_2x2_fix"):
        return nn.Sequential(
            nn.Identity(),
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
    if projector_type == "mlp_downsample_3x3_fix":
        return nn.Sequential(
            nn.Identity(),
            nn.LayerNorm(9 * width),
            nn.Linear(9 * width, 3 * width),
            nn.GELU(),
            nn.LayerNorm(3 * width),
            nn.Linear(3 * width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
    if projector_type == "linear":
        return nn.Linear(width, hidden)
    if projector_type == "identity":
        return nn.Identity()
    depth = int(projector_type.removeprefix("mlp").removesuffix("x_gelu"))
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)
