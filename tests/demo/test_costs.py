"""What a budget costs before it is paid, and what is learned from what was paid."""

import pytest

from demo.costs import Cost, Timings, cost_of
from vila_hd.receipt import LookSummary, Receipt


def receipt(patches, seconds, read=0.0, pictures=1):
    look = LookSummary((10, 10), (10, 10), (64,), ((patches, 5000),), 1, 16, patches // 4, 0.1)
    return Receipt((look,) * pictures, 5, 5, {"read": read, "language": seconds})


def test_the_promised_tokens_and_patches_are_those_of_the_answer(service, session, ask):
    turn = ask(budget=30)
    cost = cost_of(service.processor, [(96, 128)], 30)
    looked = turn.answer.receipt.looks[0]
    assert cost.patches == looked.num_chosen == 30
    assert cost.passes == looked.num_passes
    assert looked.visual_tokens <= cost.tokens


def test_all_patches_are_the_most_that_can_be_paid(service):
    cost = cost_of(service.processor, [(128, 128)], 10_000)
    assert cost.patches == 8 * 8 + 16 * 16


def test_seconds_follow_what_was_measured():
    timings = Timings()
    assert timings.estimate(1, 100) is None
    for patches, seconds in ((0, 1.0), (100, 2.0), (100, 2.0), (100, 9.0)):  # one slow answer is forgiven
        timings.add(receipt(patches, seconds, read=5.0))
    assert timings.estimate(1, 100) == pytest.approx(2.0)
    assert timings.estimate(1, 300) == pytest.approx(4.0)


def test_an_estimate_never_falls_with_the_budget():
    timings = Timings()
    timings.add(receipt(0, 3.0))
    timings.add(receipt(100, 1.0))
    assert timings.estimate(1, 400) == timings.estimate(1, 0) == pytest.approx(2.0)


def test_the_cost_in_words():
    assert Cost(288, 1, 121, 0.5, True).words() == "288 patches in 1 pass · up to 121 visual tokens · ~0.5 s"
    assert Cost(0, 0, 64, None, True).words() == "low resolution only · up to 64 visual tokens"
    assert "more than the language model reads" in Cost(9000, 20, 9000, 1.0, False).words()
