"""Looks and receipts: exact coverage, counts that add up, and text that says what happened."""

import dataclasses
import itertools
import json
from fractions import Fraction

import pytest
import torch

from vila_hd.errors import VilaHDError
from vila_hd.receipt import Look, Receipt, covered_share, empty_pass_maps, format_share


def make_look(pass_maps: tuple[torch.Tensor, ...], /, **changes: object) -> Look:
    look = Look(
        scales=tuple(768 * 5**index for index in range(len(pass_maps))),
        low_scale=256,
        patch_size=16,
        scores=torch.rand(16, 16, generator=torch.Generator().manual_seed(0)),
        pass_maps=pass_maps,
        processed_size=(3840, 2160),
        original_size=(3840, 2160),
        low_res_tokens=64,
        high_res_tokens=136,
    )
    return dataclasses.replace(look, **changes)


def brute_force_share(masks: list[torch.Tensor]) -> Fraction:
    """Area of the union by cutting the unit square at every boundary, one piece at a time, in fractions."""
    xs = sorted({Fraction(c, mask.shape[1]) for mask in masks for c in range(mask.shape[1] + 1)})
    ys = sorted({Fraction(r, mask.shape[0]) for mask in masks for r in range(mask.shape[0] + 1)})
    area = Fraction(0)
    for y0, y1 in itertools.pairwise(ys):
        for x0, x1 in itertools.pairwise(xs):
            y, x = (y0 + y1) / 2, (x0 + x1) / 2
            if any(mask[int(y * mask.shape[0]), int(x * mask.shape[1])] for mask in masks):
                area += (y1 - y0) * (x1 - x0)
    return area


@pytest.mark.parametrize(
    "grids",
    [[(3, 4)], [(3, 4), (6, 8)], [(3, 5), (7, 9)], [(2, 3), (5, 7), (11, 13)], [(1, 1), (4, 1)]],
    ids=str,
)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_coverage_is_the_exact_area_of_the_union(grids, density):
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(grid, generator=generator) < density for grid in grids]
    assert covered_share(masks) == float(brute_force_share(masks))


def test_coverage_stays_exact_where_the_common_grid_is_huge():
    sides = (269, 271, 277, 281)  # primes: the common grid has 5.7e9 cells per side
    masks = [torch.zeros(side, side, dtype=torch.bool) for side in sides]
    masks[0][0, 0] = masks[3][-1, -1] = True
    assert covered_share(masks) == float(Fraction(1, 269**2) + Fraction(1, 281**2))


def test_overlapping_scales_are_counted_once():
    maps = empty_pass_maps([(27, 48), (135, 240)])
    maps[0][3, 7] = 1  # one coarse patch ...
    maps[1][15:20, 35:40] = 2  # ... and the 25 fine patches of the same place
    assert make_look(maps).coverage == 1 / (27 * 48)


def test_nothing_chosen_and_everything_chosen():
    maps = empty_pass_maps([(27, 48), (135, 240)])
    assert make_look(maps).coverage == 0.0
    assert make_look(maps).num_passes == 0
    full = make_look(tuple(torch.ones_like(one) for one in maps))
    assert full.coverage == 1.0
    assert full.summary().chosen == ((1296, 1296), (32400, 32400))


def test_chosen_is_the_union_of_all_passes():
    maps = empty_pass_maps([(2, 3)])
    maps[0][0, 1], maps[0][1, 2] = 1, 3
    assert make_look(maps).chosen(0).tolist() == [[False, True, False], [False, False, True]]
    assert make_look(maps).num_passes == 3


def test_an_unknown_scale_index_names_how_many_there_are():
    with pytest.raises(VilaHDError, match=r"scale index 2.*2 high-res scales"):
        make_look(empty_pass_maps([(27, 48), (135, 240)])).chosen(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (768,)}, r"2 pass maps for 1 scales \(768,\)"),
        ({"scales": (3840, 768)}, r"scales \(3840, 768\).*low to high"),
        ({"scores": torch.zeros(256)}, r"scores of shape \(256,\)"),
        ({"pass_maps": (torch.zeros(4), torch.zeros(4, 4))}, r"pass map of scale 768 has shape \(4,\)"),
    ],
)
def test_a_look_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(VilaHDError, match=message):
        make_look(empty_pass_maps([(27, 48), (135, 240)]), **changes)


def make_receipt(num_pictures: int = 1) -> Receipt:
    maps = empty_pass_maps([(27, 48), (135, 240)])
    maps[0][0, :32], maps[1][:5, :100] = 1, 2
    looks = [make_look(maps) for _ in range(num_pictures)]
    seconds = {"read": 0.1, "low_res": 0.02, "choose": 0.01, "high_res": 0.2, "language": 0.07}
    return Receipt.from_looks(looks, prompt_tokens=41, new_tokens=3, seconds=seconds)


def test_lines_tell_sizes_choice_tokens_and_time():
    text = "\n".join(make_receipt().lines())
    for part in (
        "3840 x 2160 px",
        "32 of 1,296 patches at 768 px",
        "500 of 32,400 patches at 3,840 px",
        "2 passes",
        "64 low-res + 136 high-res = 200",
        "41 prompt + 3 new",
        "0.40 = read 0.10",
        format_share(make_receipt().looks[0].coverage),
    ):
        assert part in text


def test_lines_number_the_pictures_only_when_there_are_several():
    assert make_receipt().lines()[0].startswith("picture  ")
    lines = make_receipt(2).lines()
    assert [line.split("  ")[0] for line in lines if line.startswith("picture")] == ["picture 1", "picture 2"]


def test_lines_say_when_only_the_low_res_view_was_used():
    look = make_look(empty_pass_maps([(27, 48), (135, 240)]), high_res_tokens=0)
    lines = Receipt.from_looks([look], prompt_tokens=1, new_tokens=1, seconds={}).lines()
    assert any("low-res view only" in line for line in lines)
    assert not any(line.startswith("seconds") for line in lines)


def test_to_dict_survives_json_and_adds_up():
    receipt = make_receipt(2)
    data = json.loads(json.dumps(receipt.to_dict()))
    assert data["visual_tokens"] == sum(
        look["low_res_tokens"] + look["high_res_tokens"] for look in data["looks"]
    )
    assert data["total_seconds"] == pytest.approx(sum(data["seconds"].values()))
    assert data["looks"][0]["scales"][1] == {"scale": 3840, "chosen": 500, "patches": 32400}
    assert data["looks"][0]["coverage"] == receipt.looks[0].coverage


def test_an_unknown_phase_is_refused():
    with pytest.raises(VilaHDError, match=r"lowres.*low_res"):
        Receipt(looks=(), prompt_tokens=1, new_tokens=1, seconds={"lowres": 0.1})


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-6, "< 0.1 %"),
        (0.0123, "1.2 %"),
        (0.5, "50 %"),
        (0.99999, "> 99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_shares_never_round_to_nothing_or_everything(share, text):
    assert format_share(share) == text
