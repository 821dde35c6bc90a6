"""Where tokens go: counts, order, padding, labels, and the prefix that keeps its columns."""

import pytest
import torch

from vila_hd import VilaHDError
from vila_hd.fusion import count_shared, find_prompt_positions, find_runs, lay_out

IMAGE = 9
# Two pictures (runs of two), text only, one picture; padded on both sides.
IDS = torch.tensor(
    [[1, 9, 9, 2, 9, 9, 3, 4], [0, 0, 0, 0, 5, 6, 7, 8], [0, 1, 2, 9, 9, 3, 4, 0]],
)
MASK = torch.tensor([[1] * 8, [0] * 4 + [1] * 4, [0] + [1] * 6 + [0]]).bool()
COUNTS = (3, 1, 2)


def fused_rows(layout: object, ids: torch.Tensor) -> list[list[int]]:
    """Ids of each fused row without padding; high-resolution token n of all looks is shown as 100 + n."""
    fused = layout.place_ids(ids, -1)
    fused[layout.high_row, layout.high_column] = torch.arange(100, 100 + len(layout.high_row))
    return [row[keep].tolist() for row, keep in zip(fused, layout.mask, strict=True)]


EXPECTED = [
    [1, 9, 9, 100, 101, 102, 2, 9, 9, 103, 3, 4],
    [5, 6, 7, 8],
    [1, 2, 9, 9, 104, 105, 3, 4],
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_high_res_tokens_follow_their_picture(side: str) -> None:
    layout = lay_out(MASK, find_runs(IDS, IMAGE, 2), COUNTS, padding_side=side)
    assert fused_rows(layout, IDS) == EXPECTED
    edge = layout.mask[:, -1 if side == "left" else 0]
    assert edge.all()


def test_shared_prefix_keeps_its_columns() -> None:
    runs = find_runs(IDS, IMAGE, 2)
    shared = count_shared(MASK, runs, COUNTS, columns=7)
    # Up to the first picture's last low-resolution token; the text row up to column 6.
    assert shared.tolist() == [3, 3, 4]
    layout = lay_out(MASK, runs, COUNTS, padding_side="left", shared_B=shared)
    assert fused_rows(layout, IDS) == EXPECTED
    assert layout.column[2, 1:5].tolist() == [1, 2, 3, 4]
    assert layout.mask[:, -1].all()


def test_a_row_without_insertions_is_shared_but_for_its_last_token() -> None:
    runs = find_runs(IDS, IMAGE, 2)
    assert count_shared(MASK, runs, (0, 0, 0), columns=8).tolist() == [7, 3, 5]


def test_labels_move_with_their_tokens() -> None:
    layout = lay_out(MASK, find_runs(IDS, IMAGE, 2), COUNTS, padding_side="right")
    labels = layout.place_labels(IDS.masked_fill(IDS == IMAGE, -100))
    assert [row[row != -100].tolist() for row in labels] == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]


def test_embeddings_land_where_ids_land() -> None:
    layout = lay_out(MASK, find_runs(IDS, IMAGE, 2), COUNTS, padding_side="left")
    fused = layout.place(IDS[..., None].float(), torch.arange(100.0, 106.0)[:, None])[..., 0].long()
    assert [row[keep].tolist() for row, keep in zip(fused, layout.mask, strict=True)] == EXPECTED
    assert not fused[~layout.mask].any()


@pytest.mark.parametrize(
    ("row", "words"), [([9, 9, 9, 1], "row 0 has 3 image tokens"), ([9, 1, 9, 1], "runs of 2")]
)
def test_broken_runs_are_refused(row: list[int], words: str) -> None:
    with pytest.raises(VilaHDError, match=words):
        find_runs(torch.tensor([row]), IMAGE, 2)


def test_question_ends_before_the_last_occurrence_of_the_end_ids() -> None:
    ids = torch.tensor([[1, 7, 8, 2, 3, 7, 8, 4], [1, 2, 3, 4, 5, 6, 0, 0]])
    mask = torch.tensor([[1] * 8, [1] * 6 + [0] * 2]).bool()
    assert find_prompt_positions(ids, mask, (7, 8)).tolist() == [4, 5]
    assert find_prompt_positions(ids, mask, ()).tolist() == [7, 5]
