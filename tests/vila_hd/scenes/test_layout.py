import itertools

import numpy as np
import pytest

from vila_hd.errors import VilaHDError
from vila_hd.scenes import SPLITS, TIERS, SceneConfig, make_scene, questions, split_seeds
from vila_hd.scenes.layout import CELLS

SEEDS = range(20)


def test_equal_seeds_give_equal_scenes_and_others_differ():
    assert make_scene(7) == make_scene(7)
    assert make_scene(7) != make_scene(8)


def test_color_pairs_are_distinct_within_a_scene():
    for seed in SEEDS:
        scene = make_scene(seed)
        assert len({(item.plate, item.ink) for item in scene.objects}) == len(scene.objects) == 12


def test_signs_lie_inside_the_picture_and_never_share_a_cell():
    for seed in SEEDS:
        scene = make_scene(seed)
        width, height = scene.size
        taken = np.zeros((CELLS, CELLS), int)
        for x1, y1, x2, y2 in scene.boxes:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            taken[
                y1 * CELLS // height : (y2 - 1) * CELLS // height + 1,
                x1 * CELLS // width : (x2 - 1) * CELLS // width + 1,
            ] += 1
        assert taken.max() == 1


def test_query_is_the_caption_without_the_mark():
    for item in make_scene(3).objects:
        assert item.caption == f"{item.query} {item.answer}"


def test_tiers_follow_their_shares():
    only_digits = make_scene(1, SceneConfig(tiers={"digit": 1.0}))
    assert {item.tier for item in only_digits.objects} == {"digit"}
    config = SceneConfig(tiers={"texture": 3.0, "letter": 1.0})
    mixed = [item.tier for seed in range(40) for item in make_scene(seed, config).objects]
    assert 0.65 < mixed.count("texture") / len(mixed) < 0.85
    assert {item.tier for seed in range(5) for item in make_scene(seed).objects} == set(TIERS)


def test_every_sign_has_one_mark_question():
    scene = make_scene(5)
    found = questions(scene, np.random.default_rng(0))
    marks = [one for one in found if one.kind == "mark"]
    assert [one.object_index for one in marks] == list(range(12))
    assert [one.answer for one in marks] == [item.answer for item in scene.objects]
    assert {one.kind for one in found} == {"mark", "count", "time", "place", "where"}


@pytest.mark.parametrize(("seed", "count", "size"), [(6463, 4, (960, 960)), (9, 8, (1280, 960))])
def test_signs_that_leave_no_room_for_the_last_are_hung_anew(seed, count, size, monkeypatch):
    config = SceneConfig(size=size, num_objects=count, tiers={"texture": 1.0})
    assert len(make_scene(seed, config).objects) == count
    monkeypatch.setattr("vila_hd.scenes.layout._TRIES", 1)
    with pytest.raises(VilaHDError, match=f"only {count - 1} signs"):
        make_scene(seed, config)


def test_splits_are_disjoint():
    ranges = sorted(SPLITS.values(), key=lambda one: one.start)
    assert all(first.stop <= second.start for first, second in itertools.pairwise(ranges))
    assert split_seeds("test", 2) == [SPLITS["test"].start, SPLITS["test"].start + 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SceneConfig(size=(100, 100)), "100x100"),
        (lambda: SceneConfig(num_objects=99), "num_objects=99"),
        (lambda: SceneConfig(tiers={"smell": 1.0}), "smell"),
        (lambda: SceneConfig(tiers={"digit": 0.0}), "positive sum"),
        (lambda: split_seeds("dev", 1), "dev"),
        (lambda: make_scene(-1), "-1"),
        (lambda: make_scene(0, SceneConfig(size=(960, 540), num_objects=16)), "signs fit into 960x540"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(VilaHDError, match=message):
        call()
