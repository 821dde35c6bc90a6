"""The choice of patches: exact, disjoint over passes, ties in row-major order, batch equal to one by one."""

from itertools import pairwise

import pytest
import torch

from vila_hd.errors import VilaHDError
from vila_hd.ps3.plans import plan_passes
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import PatchSelection, choose_patches, features_to_maps, number_by_rank, score_maps

GRIDS = ((4, 4), (8, 8))
WIDE = ((2, 4), (4, 8))
SPLIT = (4, 16)


def random_scores(looks: int, side: int = 4) -> torch.Tensor:
    return torch.rand(looks, side, side, generator=torch.Generator().manual_seed(0))


def plan(grids, budget):
    return plan_passes([rows * columns for rows, columns in grids], SPLIT, budget=budget)


@pytest.mark.parametrize("budget", [1, 13, 20, 21, 47, "all"])
def test_choice_has_exactly_the_planned_counts_and_no_patch_twice(budget):
    plans = [plan(GRIDS, budget)] * 3
    chosen = choose_patches(random_scores(3), [GRIDS] * 3, plans)
    assert chosen.counts().tolist() == [[sum(taken[i] for taken in plans[0]) for i in (0, 1)]] * 3
    assert all(len(set(row.tolist())) == len(row) for row in chosen.index)
    assert (chosen.index.diff(dim=1) > 0).all()


def test_earlier_passes_take_the_better_patches():
    scores = random_scores(2, side=8)
    chosen = choose_patches(scores, [GRIDS] * 2, [plan(GRIDS, 60)] * 2)
    for look, maps in enumerate(chosen.pass_maps()):
        values = score_maps(scores, [GRIDS] * 2)[look]
        for number, value in zip(maps, values, strict=True):
            ranked = [value[number == step] for step in range(1, int(number.max()) + 1)]
            ranked.append(value[number == 0])
            for better, worse in pairwise(ranked):
                assert not len(worse) or better.min() >= worse.max()


@pytest.mark.parametrize("ends", [(5,), (2, 5), (1, 2, 9)])
def test_equal_scores_are_taken_in_row_major_order(ends):
    values = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0]])
    order = [1, 3, 7, 0, 2, 4, 5, 6, 8, 9]
    number = number_by_rank(values, [ends])[0].tolist()
    expected = [next((i + 1 for i, end in enumerate(ends) if order.index(j) < end), 0) for j in range(10)]
    assert number == expected


def test_quick_choice_equals_the_sorted_one_with_many_ties():
    values = torch.randint(0, 5, (6, 200), generator=torch.Generator().manual_seed(1)).float()
    quick = number_by_rank(values, [(37,)] * 6)
    ranked = number_by_rank(values, [(20, 37)] * 6)
    assert torch.equal(quick > 0, ranked > 0)


def test_looks_with_other_grids_in_one_batch_equal_one_by_one():
    scores, grids = random_scores(3), [GRIDS, WIDE, GRIDS]
    plans = [plan(entry, budget) for entry, budget in zip(grids, (50, 33, 10), strict=True)]
    together = choose_patches(scores, grids, plans)
    for look, maps in enumerate(together.pass_maps()):
        alone = choose_patches(scores[look : look + 1], grids[look : look + 1], plans[look : look + 1])
        assert all(torch.equal(a, b) for a, b in zip(maps, alone.pass_maps()[0], strict=True))
    assert together.mask.sum(dim=1).tolist() == [50, 33, 10]
    assert together.counts().sum(dim=1).tolist() == [50, 33, 10]


def test_places_agree_with_maps():
    chosen = choose_patches(random_scores(2), [GRIDS, WIDE], [plan(GRIDS, 30), plan(WIDE, 12)])
    scale, row, column = chosen.places()
    for look, maps in enumerate(chosen.maps()):
        rebuilt = [torch.zeros_like(entry) for entry in maps]
        for i, r, c in zip(scale[look], row[look], column[look], strict=True):
            rebuilt[i][r, c] = True
        if chosen.mask[look].all():
            assert all(torch.equal(a, b) for a, b in zip(rebuilt, maps, strict=True))
        assert sum(int(entry.sum()) for entry in maps) == int(chosen.mask[look].sum())


def test_selection_survives_the_way_through_its_maps():
    chosen = choose_patches(random_scores(2), [GRIDS, WIDE], [plan(GRIDS, 50), plan(WIDE, 12)])
    again = PatchSelection.from_maps(chosen.pass_maps())
    assert torch.equal(again.index, chosen.index)
    assert torch.equal(again.passes, chosen.passes)


def test_patches_in_regions_come_first():
    box = torch.tensor([[0.5, 0.5, 0.75, 0.75]])
    chosen = choose_patches(
        random_scores(1) * 0.9, [GRIDS], [plan(GRIDS, 20)], regions=Regions.from_boxes([box])
    )
    first, second = chosen.maps()[0]
    assert first[2, 2]
    assert second[4:6, 4:6].all()


def test_smoothing_averages_blocks():
    maps = score_maps(random_scores(1, side=12), [((12, 12), (24, 24))], smooth=True)[0]
    blocks = maps[1].view(6, 4, 6, 4)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_scores_that_are_not_numbers_are_refused():
    scores = random_scores(1)
    scores[0, 0, 0] = float("nan")
    with pytest.raises(VilaHDError, match="NaN"):
        choose_patches(scores, [GRIDS], [plan(GRIDS, 5)])


def test_features_return_to_their_places():
    chosen = choose_patches(random_scores(2), [GRIDS, WIDE], [plan(GRIDS, 20), plan(WIDE, 12)])
    low, high = torch.randn(2, 16, 3), torch.randn(2, chosen.index.shape[1], 3)
    for look, (coarse, *fine) in enumerate(features_to_maps(low, high, chosen)):
        assert torch.equal(coarse.flatten(1).T, low[look])
        flat = torch.cat([entry.flatten(1).T for entry in fine])
        mask = chosen.mask[look]
        assert torch.equal(flat[chosen.index[look][mask]], high[look][mask])
        assert int((flat != 0).any(dim=1).sum()) == int(mask.sum())
