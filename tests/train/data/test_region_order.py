"""The order of samples: exact shares, every sample once per epoch, a function of seed and row alone."""

from collections import Counter

from train.data.region_order import CYCLE, SampleOrder, SourceOrder, cycle_quotas


def test_quotas_are_exact():
    assert cycle_quotas([1, 1, 1]) == [334, 333, 333]
    assert cycle_quotas([3, 1]) == [750, 250]
    assert sum(cycle_quotas([0.1, 0.7, 0.123])) == CYCLE


def test_source_positions_have_no_gap():
    order = SourceOrder([3, 1], seed=5)
    rows = [order.at(row) for row in range(2 * CYCLE)]
    for source, quota in ((0, 750), (1, 250)):
        assert [position for owner, position in rows if owner == source] == list(range(2 * quota))
    assert rows[:40] != [SourceOrder([3, 1], seed=6).at(row) for row in range(40)]
    # No source waits for the end of a cycle.
    assert 15 < sum(owner for owner, _ in rows[:100]) < 40


def test_every_sample_once_per_epoch_in_a_new_order():
    counts = [5, 0, 7, 1]
    order = SampleOrder(counts, seed=(1, 0), window=4)
    epochs = [[order.at(epoch * 13 + i) for i in range(13)] for epoch in range(3)]
    for places in epochs:
        assert Counter(places) == Counter((s, n) for s, count in enumerate(counts) for n in range(count))
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_does_not_depend_on_what_was_asked_before():
    one, two = (SampleOrder([50, 60], seed=(1, 2), window=16) for _ in range(2))
    places = {position: one.at(position) for position in range(300)}
    assert [two.at(position) for position in (299, 0, 150)] == [places[i] for i in (299, 0, 150)]


def test_shuffling_stays_within_the_window():
    order = SampleOrder([100] * 10, seed=(0, 0), window=50)
    first = [order.at(position) for position in range(50)]
    assert len({shard for shard, _ in first}) == 1
    assert [number for _, number in first] != sorted(number for _, number in first)
