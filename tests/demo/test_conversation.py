"""What the chat and the viewer are told: texts and addresses, never objects, and nothing of users as HTML."""

import json

import pytest
from PIL import Image

from demo import fragments
from demo.conversation import messages, turn_of_message
from demo.viewing import image_file, report_file, show_turn, show_waiting
from vila_hd import VilaHDError

EVIL = '<img src=x onerror="alert(1)">'


def test_a_chat_holds_texts_and_small_files_only(ask, session):
    ask()
    ask("and there?", new=False)
    shown = json.loads(json.dumps(messages(session)))  # objects would not pass
    assert [message["role"] for message in shown] == ["user", "user", "assistant", "user", "assistant"]
    (file,) = shown[0]["content"]
    assert max(Image.open(file["path"]).size) <= 560
    assert "20 patches" in shown[2]["content"]


def test_messages_know_their_turns(ask, session):
    first, second = ask(), ask("and there?", new=False)
    assert [turn_of_message(session, at) for at in range(6)] == [first, first, first, second, second, None]


def test_errors_and_questions_are_escaped(ask, session, service):
    turn = ask(EVIL, new=False, box=(0, 0, 9, 9))
    turn.error = EVIL
    reply = messages(session)[-1]["content"]
    assert 'role="alert"' in reply
    for text in (reply, fragments.problem(EVIL), fragments.heading(EVIL)):
        assert "<img" not in text
        assert "&lt;img" in text
    ask(EVIL)
    assert "<img" not in fragments.caption(session.turns[-1])


def test_every_address_of_the_viewer_leads_to_an_image(ask, session, upload, service):
    ask("both?", upload("a.png"), upload("b.tiff", seed=1, size=(500, 300)))
    service.attach(session, [upload("c.png")])
    shown = show_turn(session, session.turns[-1])["pictures"] + show_waiting(session)["pictures"]
    assert len(shown) == 3
    urls = [url for picture in shown for url in picture["urls"].values()]
    urls += [scale["image"] for picture in shown for scale in picture["scales"] if scale["image"]]
    assert len(urls) >= 8
    for url in urls:
        token, name = url.split("/")
        assert token == session.token
        Image.open(image_file(session, name)).load()


@pytest.mark.parametrize(
    "name", ["../../secret", "9_0_low.png", "1_0_secret", "1_9_low.png", "report_1.html", ""]
)
def test_no_other_file_can_be_asked_for(ask, session, name):
    ask()
    with pytest.raises(VilaHDError):
        image_file(session, name)


def test_a_report_is_one_page_without_addresses(ask, session):
    turn = ask()
    text = report_file(session, turn.number).read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert turn.question in text
    assert "http" not in text.replace("http-equiv", "")
    failed = ask("  ")
    with pytest.raises(VilaHDError, match="no answer"):
        report_file(session, failed.number)


def test_the_numbers_beside_the_lens_are_those_of_the_receipt(ask, session):
    turn = ask()
    text = fragments.details(session, turn)
    for line in turn.answer.receipt.lines():
        assert line.split("  ", 1)[1].strip() in text
    assert f"report-{turn.number}.html" in text
    assert fragments.details(session, ask("  ")) == ""
