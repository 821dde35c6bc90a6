"""Where every token of a prompt goes once high-resolution tokens join it. Index arithmetic only, no
parameters.

A picture is a run of placeholder ids in ``input_ids``; its high-resolution tokens follow right after that
run.

Shape suffixes used in this file:
    B = rows of the batch, T = columns of ``input_ids``, L = looks (runs of placeholders, in reading order),
    N = high-resolution tokens of all looks together, U = columns of the fused sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .constants import IGNORE_INDEX
from .errors import VilaHDError


@dataclass(frozen=True)
class Runs:
    """The runs of placeholders in a batch, row by row."""

    row: Tensor
    start: Tensor
    """Column of the first placeholder of each run."""

    end: Tensor
    """Column of the last one."""

    def __len__(self) -> int:
        return len(self.row)


def find_runs(input_ids_BT: Tensor, image_token_id: int, run_length: int) -> Runs:
    """The runs of ``run_length`` placeholders.

    Raises:
        VilaHDError: a row holds placeholders that make no whole runs.
    """
    is_image_BT = input_ids_BT == image_token_id
    for row, count in enumerate(is_image_BT.sum(1).tolist()):
        if count % run_length:
            raise VilaHDError(
                f"row {row} has {count} image tokens, expected a multiple of {run_length} (low-resolution "
                "tokens per "
                "picture): make input_ids with the model's own processor and do not cut them"
            )
    row_M, column_M = is_image_BT.nonzero(as_tuple=True)
    row_LR, column_LR = row_M.view(-1, run_length), column_M.view(-1, run_length)
    expected_LR = column_LR[:, :1] + torch.arange(run_length, device=input_ids_BT.device)
    if not torch.equal(column_LR, expected_LR):
        raise VilaHDError(
            f"image tokens do not come in runs of {run_length} without text in between: make input_ids with "
            "the "
            "model's own processor and do not cut them"
        )
    return Runs(row_LR[:, 0], column_LR[:, 0], column_LR[:, -1])


def find_prompt_positions(input_ids_BT: Tensor, mask_BT: Tensor, end_ids: Sequence[int]) -> Tensor:
    """``(B,)`` column of the last token of the question.

    That is the one before the last occurrence of ``end_ids``; without any, the last token that is not
    padding.
    """
    columns_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    last_B = torch.where(mask_BT, columns_T, -1).amax(1).clamp(min=0)
    if not end_ids or len(end_ids) >= input_ids_BT.shape[1]:
        return last_B
    end_N = torch.tensor(list(end_ids), device=input_ids_BT.device)
    found_BT = (input_ids_BT.unfold(1, len(end_ids), 1) == end_N).all(-1)
    start_B = torch.where(found_BT, columns_T[: found_BT.shape[1]], 0).amax(1)
    return torch.where(start_B > 0, start_B - 1, last_B)


def check_prompt_positions(positions_B: Tensor, input_ids_BT: Tensor) -> Tensor:
    """``positions_B`` on the device of ``input_ids_BT``.

    Raises:
        VilaHDError: it has another shape or points outside of ``input_ids_BT``.
    """
    rows, columns = input_ids_BT.shape
    if positions_B.shape != (rows,) or bool(((positions_B < 0) | (positions_B >= columns)).any()):
        raise VilaHDError(
            f"prompt_positions={positions_B.tolist()}: use {rows} column(s) from 0 to {columns - 1}"
        )
    return positions_B.to(input_ids_BT.device)


def check_look_positions(positions_L: Tensor, runs: Runs, columns: int) -> Tensor:
    """``positions_L`` on the device of ``runs``.

    Raises:
        VilaHDError: it has another shape, or a position is not behind the placeholders of its look.
    """
    positions_L = positions_L.to(runs.end.device)
    fits = positions_L.shape == runs.end.shape
    if not fits or bool(((positions_L < runs.end) | (positions_L >= columns)).any()):
        raise VilaHDError(
            f"look_positions={positions_L.tolist()}: use one column per look, behind its image tokens "
            f"(which end at {runs.end.tolist()}) and below {columns}"
        )
    return positions_L


def check_no_placeholders(input_ids_BT: Tensor, image_token_id: int) -> None:
    """Pass when no placeholder waits for a picture.

    Raises:
        VilaHDError: some do.
    """
    found = int((input_ids_BT == image_token_id).sum())
    if found:
        raise VilaHDError(
            f"expected 0 image tokens without pixel_values, got {found}: pass the processor's pixel_values"
        )


@dataclass(frozen=True)
class Layout:
    """Places in the fused sequence."""

    column: Tensor
    """Column of each token of ``input_ids``; meaningless for padding."""

    source_mask: Tensor
    """Which tokens of ``input_ids`` are no padding."""

    high_row: Tensor
    high_column: Tensor
    """Row and column of each high-resolution token, look by look."""

    mask: Tensor
    """True at tokens, False at padding."""

    @property
    def positions(self) -> Tensor:
        """Position ids: padding does not count."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    def place(self, low_BTD: Tensor, high_ND: Tensor) -> Tensor:
        """``(B, U, D)``: embeddings of ``input_ids`` and high-resolution tokens in their places, zero at
        padding."""
        rows, columns = self.mask.shape
        row_M, column_M = self.source_mask.nonzero(as_tuple=True)
        flat_M = row_M * columns + self.column[row_M, column_M]
        flat_N = self.high_row * columns + self.high_column
        values = torch.cat([low_BTD[row_M, column_M], high_ND.to(low_BTD.dtype)])
        fused = low_BTD.new_zeros(rows * columns, low_BTD.shape[-1])
        return fused.index_copy(0, torch.cat([flat_M, flat_N]), values).view(rows, columns, -1)

    def place_ids(self, ids_BT: Tensor, fill: int) -> Tensor:
        """``(B, U)``: the tokens in their places; ``fill`` at high-resolution tokens and padding."""
        fused = ids_BT.new_full(self.mask.shape, fill)
        row_M, column_M = self.source_mask.nonzero(as_tuple=True)
        fused[row_M, self.column[row_M, column_M]] = ids_BT[row_M, column_M]
        return fused

    def place_labels(self, labels_BT: Tensor) -> Tensor:
        """``(B, U)``: labels in their places; visual tokens and padding carry no loss."""
        return self.place_ids(labels_BT, IGNORE_INDEX)


def lay_out(
    mask_BT: Tensor,
    runs: Runs,
    counts: Sequence[int],
    *,
    padding_side: Literal["left", "right"],
    shared_B: Tensor | None = None,
) -> Layout:
    """Lay out a batch after ``counts[l]`` high-resolution tokens were inserted behind run ``l``.

    Args:
        mask_BT: bool, False at padding of ``input_ids`` (anywhere in a row).
        runs: the runs of placeholders.
        counts: high-resolution tokens per run.
        padding_side: where shorter rows are padded.
        shared_B: tokens at the start of each row that keep their columns, because their keys and values are
        cached
            already; the rest is padded between them and the end. None: no such tokens.
    """
    device = mask_BT.device
    counts_L = torch.tensor(list(counts), dtype=torch.long, device=device)
    behind_BT = torch.zeros(mask_BT.shape, dtype=torch.long, device=device)
    behind_BT.index_put_((runs.row, runs.end), counts_L, accumulate=True)
    # Rank of each token among its row's tokens, high-resolution tokens before it included.
    rank_BT = mask_BT.long().cumsum(1) - 1 + behind_BT.cumsum(1) - behind_BT
    total_B = mask_BT.sum(1) + behind_BT.sum(1)
    if shared_B is None:
        shared_B = torch.zeros_like(total_B)
    columns_T = torch.arange(mask_BT.shape[1], device=device)
    is_shared_BT = (rank_BT < shared_B[:, None]) & mask_BT
    prefix = int(torch.where(is_shared_BT, columns_T + 1, 0).max()) if mask_BT.numel() else 0
    rest_B = total_B - shared_B
    rest = int(rest_B.max())
    offset_B = prefix - shared_B + (rest - rest_B if padding_side == "left" else 0)
    place_BT = torch.where(is_shared_BT, columns_T, rank_BT + offset_B[:, None])

    high_row_N = runs.row.repeat_interleave(counts_L)
    within_N = torch.arange(len(high_row_N), device=device)
    within_N = within_N - (counts_L.cumsum(0) - counts_L).repeat_interleave(counts_L)
    first_L = rank_BT[runs.row, runs.end] + 1 + offset_B[runs.row]
    high_place_N = first_L.repeat_interleave(counts_L) + within_N

    mask_BU = torch.zeros(len(mask_BT), prefix + rest, dtype=torch.bool, device=device)
    row_M, column_M = mask_BT.nonzero(as_tuple=True)
    mask_BU[row_M, place_BT[row_M, column_M]] = True
    mask_BU[high_row_N, high_place_N] = True
    return Layout(place_BT, mask_BT, high_row_N, high_place_N, mask_BU)


def count_shared(mask_BT: Tensor, runs: Runs, counts: Sequence[int], columns: int) -> Tensor:
    """``(B,)`` tokens at the start of each row that are the same with and without high-resolution tokens.

    Everything up to the first place where tokens were inserted, within the first ``columns`` columns, and
    never a whole row: its last token must still be run to predict the next one.
    """
    end_B = torch.full((len(mask_BT),), columns, device=mask_BT.device)
    for row, end, count in zip(runs.row.tolist(), runs.end.tolist(), counts, strict=True):
        if count:
            end_B[row] = min(int(end_B[row]), end + 1)
    inside_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device) < end_B[:, None]
    inserted_B = torch.zeros_like(end_B).index_add(
        0, runs.row, torch.tensor(list(counts), dtype=torch.long, device=mask_BT.device)
    )
    return torch.minimum((mask_BT & inside_BT).sum(1), mask_BT.sum(1) + inserted_B - 1)


@dataclass(frozen=True)
class Packed:
    """Rows of a batch one after the other, without padding, as one row for a language model.

    Positions start again at 0 with every row. By them, transformers keeps the rows apart: with a
    block-diagonal mask, or with the rows' lengths where flash attention is used.
    """

    row: Tensor
    """``(M,)`` row of each token."""

    column: Tensor
    """``(M,)`` its column."""

    positions: Tensor
    """``(1, M)``"""

    shape: tuple[int, int]
    """Rows and columns of the batch."""

    @classmethod
    def from_mask(cls, mask_BU: Tensor) -> "Packed":
        """Pack a batch in which ``mask_BU`` is False at padding."""
        row_M, column_M = mask_BU.nonzero(as_tuple=True)
        positions_BU = mask_BU.long().cumsum(1) - 1
        return cls(row_M, column_M, positions_BU[row_M, column_M][None], (len(mask_BU), mask_BU.shape[1]))

    def pack(self, values_BUD: Tensor) -> Tensor:
        """``(1, M, D)``"""
        return values_BUD[self.row, self.column][None]

    def unpack(self, values_1MD: Tensor) -> Tensor:
        """``(B, U, D)``: zeros at padding."""
        padded = values_1MD.new_zeros(*self.shape, values_1MD.shape[-1])
        return padded.index_put((self.row, self.column), values_1MD[0])
