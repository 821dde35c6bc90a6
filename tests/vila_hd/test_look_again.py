"""Looking again: patches of the last answer are kept, and others are added where a person points."""

import threading

import pytest
import torch

from vila_hd import Answer, HighResOptions, VilaHDError, ask, stream
from vila_hd.options import Pruning
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import free_patches, join_choices
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

GRIDS = ((8, 8), (16, 16))
BOX = (64.0, 64.0, 128.0, 128.0)
"""The lower right quarter of a 128 px picture."""


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(), tiny_processor()


@pytest.fixture(scope="module")
def first(tiny):
    return ask(*tiny, [tiny_picture()], "what?", high_res=HighResOptions(budget=24), max_new_tokens=4)


def closer(tiny, history, budget=16, **changes):
    options = HighResOptions(budget=budget, guided_by="regions", regions=((BOX,),), only_regions=True)
    return ask(*tiny, [], "and?", high_res=options, history=history, max_new_tokens=4, **changes)


def test_without_keeping_only_the_box_is_looked_at(tiny, first):
    (look,) = closer(tiny, first.history).looks
    for pass_map in look.pass_maps:
        rows, columns = pass_map.nonzero(as_tuple=True)
        assert (rows * 2 >= pass_map.shape[0]).all()
        assert (columns * 2 >= pass_map.shape[1]).all()
    assert look.summary().num_chosen == 16
    assert look.summary().kept == 0


def test_the_scores_decide_inside_the_box(tiny, first):
    (look,) = closer(tiny, first.history, budget=10).looks
    scores = torch.nn.functional.interpolate(look.scores[None, None], size=(16, 16))[0, 0][8:, 8:]
    chosen = look.pass_maps[1][8:, 8:] > 0
    assert 0 < chosen.sum() < chosen.numel()
    assert scores[chosen].min() >= scores[~chosen].max()


def test_keeping_adds_a_pass_and_leaves_the_others_as_they_were(tiny, first):
    answer = closer(tiny, first.history, keep_looks=True)
    (before,), (after,) = first.looks, answer.looks
    for old, new in zip(before.pass_maps, after.pass_maps, strict=True):
        assert (new[old > 0] == old[old > 0]).all()
        assert (new[(old == 0) & (new > 0)] > before.num_passes).all()
    assert answer.receipt.looks[0].kept == 24
    assert answer.receipt.looks[0].num_chosen == 40
    assert "16 patches added to 24 kept" in "\n".join(answer.receipt.lines())
    assert answer.receipt.to_dict()["looks"][0]["kept_patches"] == 24


def test_what_is_kept_is_what_encoding_everything_again_gives(tiny, first):
    model = tiny[0]
    history = closer(tiny, first.history, keep_looks=True).history
    layers = (model.config.select_layer,)
    with torch.no_grad():
        again = model.model.vision_tower.encode_high_res(
            history.low_res, history.kept.selection, layers=layers
        )
    torch.testing.assert_close(history.kept.high.features[0], again.features[0])


def test_a_box_that_was_seen_adds_nothing_and_a_budget_of_zero_keeps(tiny, first):
    full = closer(tiny, first.history, budget=10_000, keep_looks=True)
    assert full.receipt.looks[0].num_chosen <= 24 + 16 + 64
    same = closer(tiny, full.history, budget=10_000, keep_looks=True)
    assert same.receipt.looks[0].num_chosen == same.receipt.looks[0].kept == full.receipt.looks[0].num_chosen
    none = ask(
        *tiny,
        [],
        "and?",
        high_res=HighResOptions(budget=0),
        history=first.history,
        keep_looks=True,
        max_new_tokens=2,
    )
    assert none.receipt.looks[0].kept == none.receipt.looks[0].num_chosen == 24


def test_without_a_box_the_question_adds_what_it_has_not_seen(tiny, first):
    answer = ask(
        *tiny,
        [],
        "and?",
        high_res=HighResOptions(budget=30),
        history=first.history,
        keep_looks=True,
        max_new_tokens=2,
    )
    assert answer.receipt.looks[0].num_chosen == 54


def test_what_is_kept_is_encoded_again_where_pruning_needs_another_block(tiny, first):
    options = HighResOptions(budget=16, pruning=Pruning(method="visionzip", keep=1.0))
    answer = ask(
        *tiny, [], "and?", high_res=options, history=first.history, keep_looks=True, max_new_tokens=2
    )
    assert answer.receipt.looks[0].num_chosen == 40
    assert len(answer.history.kept.high.features) == 2


def test_new_pictures_cannot_keep_the_looks_of_others(tiny, first):
    with pytest.raises(VilaHDError, match=r"1 new picture\(s\) and 1 earlier"):
        ask(*tiny, [tiny_picture()], "and?", history=first.history, keep_looks=True)
    with pytest.raises(VilaHDError, match=r"0 new picture\(s\) and 0 earlier"):
        ask(*tiny, [], "and?", keep_looks=True)


def test_only_regions_needs_regions():
    with pytest.raises(VilaHDError, match="only_regions=True without regions"):
        HighResOptions(only_regions=True)


def test_free_patches_are_those_in_the_region_that_nobody_took(first):
    taken = first.history.kept.selection
    regions = Regions.from_boxes([torch.tensor([[0.5, 0.5, 1.0, 1.0]])])
    (free,) = free_patches([GRIDS], regions, taken)
    for mask, old in zip(free, taken.maps()[0], strict=True):
        inside = torch.zeros_like(old)
        inside[old.shape[0] // 2 :, old.shape[1] // 2 :] = True
        assert torch.equal(mask, inside & ~old)
    with pytest.raises(VilaHDError, match="an earlier choice on grids"):
        free_patches([((4, 4), (8, 8))], None, taken)


def test_joined_choices_count_their_passes_on(first):
    selection = first.history.kept.selection
    empty = type(selection).from_maps([[torch.zeros(grid, dtype=torch.long) for grid in GRIDS]])
    assert join_choices(selection, empty).index.tolist() == selection.index.tolist()
    assert join_choices(empty, selection).passes.tolist() == selection.passes.tolist()


def test_a_stopped_stream_still_tells_what_it_looked_at(tiny):
    stop = threading.Event()
    stop.set()
    *_, answer = stream(*tiny, [tiny_picture()], "what?", max_new_tokens=3000, stop=stop)
    assert isinstance(answer, Answer)
    assert answer.receipt.new_tokens == 1
    assert answer.looks
    assert answer.history.messages[-1]["content"] == answer.text
