"""Outside of training, looks of different sizes do not pad each other; in training, ranks keep step."""

import pytest
import torch

from vila_hd.ps3.passes import pass_batches
from vila_hd.ps3.selection import PatchSelection


def select(*counts):
    """A look for each count, whose first patches of a grid of 24 x 24 are chosen in one pass."""
    number = (torch.arange(576) < torch.tensor(counts)[:, None]).long()
    return PatchSelection.from_pass_numbers([number], [((24, 24),)] * len(counts))


def sizes(batches):
    return sorted(tuple(rows.shape) for rows, _ in batches)


@pytest.mark.parametrize("grad", [False, True])
def test_every_patch_is_in_one_batch_with_its_picture(grad):
    selection, picture = select(72, 576, 0, 144, 70, 130), torch.tensor([3, 1, 4, 1, 5, 9])
    with torch.set_grad_enabled(grad):
        batches = pass_batches(selection, picture)
    owner = torch.repeat_interleave(picture, selection.mask.sum(1))
    seen = torch.cat([rows[rows >= 0] for rows, _ in batches])
    assert sorted(seen.tolist()) == list(range(72 + 576 + 144 + 70 + 130))
    for rows, pictures in batches:
        for row, shown in zip(rows, pictures, strict=True):
            assert set(owner[row[row >= 0]].tolist()) == {int(shown)}


def test_looks_of_different_sizes_do_not_pad_each_other():
    with torch.no_grad():
        batches = pass_batches(select(72, 576, 144, 576, 72), torch.arange(5))
    assert sizes(batches) == [(1, 144), (2, 72), (2, 576)]


def test_looks_of_nearly_one_size_share_a_batch():
    with torch.no_grad():
        batches = pass_batches(select(130, 144, 180), torch.arange(3))
    assert sizes(batches) == [(3, 180)]


def test_in_training_the_number_of_batches_does_not_depend_on_the_looks():
    with torch.enable_grad():
        assert len(pass_batches(select(72, 576, 144), torch.arange(3))) == 1
        assert len(pass_batches(select(72, 72, 72), torch.arange(3))) == 1
