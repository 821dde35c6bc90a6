"""Questions, answers, limits and errors, without any user interface."""

from dataclasses import replace

import pytest

from demo.sessions import Settings
from vila_hd import VilaHDError


def test_the_text_grows_until_there_is_an_answer(service, session, upload):
    service.attach(session, [upload()])
    seen = [(turn.text, turn.answer) for turn in service.ask(session, "what is here?", Settings(20))]
    texts = [text for text, _ in seen]
    assert texts == sorted(texts, key=len)
    assert len(texts) > 2
    assert [answer is not None for _, answer in seen[-2:]] == [True, True]
    assert session.turns[-1].answer.receipt.looks[0].num_chosen == 20


def test_a_follow_up_knows_the_picture_and_reuses_its_low_res_pass(ask, session):
    first = ask()
    second = ask("and there?", new=False)
    assert second.error == ""
    assert second.answer.history.low_res is first.answer.history.low_res
    assert len(second.answer.looks) == 1
    assert len(session.history.messages) == 4


def test_several_pictures_in_several_turns(ask, upload):
    ask("both?", upload("a.png"), upload("b.png", seed=2))
    later = ask("and this?", upload("c.png", seed=3))
    assert len(later.answer.looks) == 3
    assert [picture.name for picture in [*later.known, *later.pictures]] == ["a.png", "b.png", "c.png"]


def test_stopping_keeps_what_was_written(service, session, upload):
    service.limits = replace(service.limits, new_tokens=3000)
    service.attach(session, [upload()])
    for turn in service.ask(session, "what is here?", Settings(20)):  # noqa: B007
        session.stop.set()
    assert turn.stopped
    assert turn.answer.receipt.new_tokens == 1
    assert session.history is turn.answer.history


def test_asking_again_replaces_the_turn_and_forgets_what_came_after(service, session, ask):
    first = ask()
    ask("and there?", new=False)
    *_, again = service.ask_again(session, first, "and now?", Settings(8))
    assert session.turns == [again]
    assert again.pictures == first.pictures
    assert again.answer.receipt.looks[0].num_chosen == 8
    assert len(session.history.messages) == 2


def test_a_variant_stays_out_of_the_conversation(service, session, ask):
    first = ask()
    *_, variant = service.compare(session, first, "", Settings(4))
    assert variant.question == first.question
    assert variant.answer.receipt.looks[0].num_chosen == 4
    assert session.turns == [first]
    assert session.turn(variant.number) is variant


def test_a_box_on_a_new_picture_confines_the_looks(ask):
    turn = ask(box=(0, 0, 40, 40))
    (look,) = turn.answer.looks
    for pass_map in look.pass_maps:
        rows, columns = pass_map.nonzero(as_tuple=True)
        assert (columns / pass_map.shape[1] < 0.5).all()
        assert (rows / pass_map.shape[0] < 0.5).all()
    assert turn.added is None


def test_a_box_on_an_old_picture_adds_looks_there_and_keeps_the_others(ask):
    first = ask(budget=8)
    turn = ask("closer", new=False, box=(80, 60, 128, 96))
    before, after = first.answer.looks[0], turn.answer.looks[0]
    for old, new in zip(before.pass_maps, after.pass_maps, strict=True):
        assert (new[old > 0] == old[old > 0]).all()
        rows, columns = ((new > 0) & (old == 0)).nonzero(as_tuple=True)
        assert (columns / new.shape[1] >= 0.5).all()
        assert (rows / new.shape[0] >= 0.5).all()
    assert turn.added == turn.answer.receipt.looks[0].num_chosen - 8 > 0


def test_a_follow_up_adds_to_what_was_seen_when_asked_to(ask):
    first = ask(budget=8)
    afresh, turn = ask("and there?", new=False, budget=8), ask("and there?", new=False, budget=8, keep=True)
    assert afresh.added is None
    for old, new in zip(afresh.answer.looks[0].pass_maps, turn.answer.looks[0].pass_maps, strict=True):
        assert (new[old > 0] == old[old > 0]).all()
    chosen = [each.answer.receipt.looks[0].num_chosen for each in (first, turn)]
    assert turn.added == chosen[1] - chosen[0] == 8


def test_a_box_without_words_asks_the_last_question_again(ask):
    ask("what is here?", budget=8)
    assert ask("", new=False, box=(80, 60, 128, 96)).question == "what is here?"


def test_what_goes_wrong_is_said_with_its_reason(ask, service):
    assert "empty" in ask("  ").error
    assert "4,001 characters" in ask("x" * 4001).error
    assert "picture 3 of 1" in ask(box=(0, 0, 9, 9), boxed=2).error
    ask("x" * 3990)
    assert "reads 4096" in ask("x" * 3990, new=False).error


def test_a_failed_question_does_not_end_the_conversation(ask, session):
    ask()
    assert ask("  ", new=False).error
    assert ask("still there?", new=False).answer
    assert len(session.history.messages) == 4


def test_too_many_pictures_are_refused_and_nothing_changes(service, session, ask, upload):
    ask("both?", upload("a.png"), upload("b.png"))
    with pytest.raises(VilaHDError, match=r"4 pictures in one conversation, 3 are allowed"):
        service.attach(session, [upload("c.png"), upload("d.png")])
    assert session.waiting == []


def test_a_session_answers_one_question_at_a_time(service, session, upload):
    service.attach(session, [upload()])
    running = service.ask(session, "what is here?", Settings(20))
    next(running)
    with pytest.raises(VilaHDError, match="still being answered"):
        next(service.ask(session, "and there?", Settings(20)))
    running.close()
    assert [*service.ask(session, "and there?", Settings(20))]


def test_sessions_do_not_see_each_other(service, ask, session):
    ask()
    other = service.sessions.open()
    assert other.token != session.token
    assert other.history is None
    *_, turn = service.ask(other, "what is here?", Settings(20))
    assert turn.answer.looks == ()


def test_the_slider_offers_only_what_the_language_model_can_read(service):
    assert service.budgets[0] == 0
    assert service.budgets == sorted(set(service.budgets))
    assert service.cost(service.sessions.open(), service.budgets[-1]).fits
