"""The order of samples is fair, complete and a function of the seed alone."""

from collections import Counter

import pytest

from train.data import order
from train.data.order import MixtureOrder, RowOrder, permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000])
def test_permutation_is_complete_and_depends_on_the_key(size):
    first = [permute(i, size, 1, 0) for i in range(size)]
    assert sorted(first) == list(range(size))
    if size > 60:
        other = [permute(i, size, 1, 1) for i in range(size)]
        assert first != other
        assert sum(a == b for a, b in zip(first, range(size), strict=True)) < size / 10


@pytest.mark.parametrize("groups", [None, [5, 1, 7, 3, 3, 2, 9, 4, 6], [40]])
def test_every_row_once_per_pass_and_another_order_in_the_next(groups):
    rows = RowOrder(40, groups, 7, 0)
    passes = [[rows.row(use) for use in range(start, start + 40)] for start in (0, 40)]
    assert all(sorted(one) == list(range(40)) for one in passes)
    assert passes[0] != passes[1]
    # Asked in any order, by somebody who knows nothing of what was asked before.
    again = RowOrder(40, groups, 7, 0)
    assert [again.row(use) for use in reversed(range(80))] == (passes[0] + passes[1])[::-1]
    assert [RowOrder(40, groups, 8, 0).row(use) for use in range(40)] != passes[0]


def test_rows_come_from_few_groups_at_a_time():
    sizes = [10] * 20
    rows = RowOrder(200, sizes, 3)
    numbers = [rows.row(use) for use in range(200)]
    for start in range(0, 200, 10 * order.WINDOW):
        window = numbers[start : start + 10 * order.WINDOW]
        assert len({number // 10 for number in window}) == order.WINDOW
    assert len({number // 10 for number in numbers[:10]}) > 1


@pytest.mark.parametrize("weights", [[1.0], [3, 1], [0.6, 0.3, 0.0999, 0.0001], [1e-7, 5, 7]])
def test_mixture_keeps_the_shares_everywhere(weights, monkeypatch):
    monkeypatch.setattr(order, "BLOCK", 32)
    mixture = MixtureOrder(weights, seed=5)
    places = [mixture.place(i) for i in range(32 * 200)]
    total = sum(weights)
    used = Counter()
    for index, (source, use) in enumerate(places):
        # No use is left out or given twice inside of a block's bounds.
        used[source] += 1
        assert use < used[source] + 32
        if (index + 1) % 32 == 0:
            for number, weight in enumerate(weights):
                assert abs(used[number] - weight / total * (index + 1)) <= 1 + 1e-9
    for number in range(len(weights)):
        uses = [use for source, use in places if source == number]
        assert uses == list(range(len(uses)))
    late = MixtureOrder(weights, seed=5)
    assert late.place(4321) == places[4321]
    assert late.place(17) == places[17]
    if len(weights) > 1 and min(weights) > 0.1:
        assert [MixtureOrder(weights, seed=6).place(i) for i in range(64)] != places[:64]
