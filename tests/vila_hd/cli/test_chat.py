"""``vila-hd chat`` driven through its standard input, as a script would."""

import io

import pytest

from vila_hd import cli


@pytest.fixture
def chat(monkeypatch, capsys, good_folder):
    """Runs a chat with these lines typed; returns ``(status, stdout, stderr)``."""

    def run(*lines, images=(), options=()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        words = [*images, "--model", good_folder, "--max-new-tokens", 3, *options]
        status = cli.main(["chat", *map(str, words)])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def test_the_end_of_the_input_leaves(chat):
    assert chat() == (0, "", "")


def test_questions_are_answered_with_receipts(chat, picture):
    status, _, receipts = chat("what is it?", "and what else?", images=[picture])
    assert status == 0
    assert receipts.count("visual tokens") == 2
    assert receipts.count("120 x 90 px") == 2  # the second answer still knows the picture


def test_pictures_can_be_added_on_the_way(chat, picture, wide_picture):
    status, _, receipts = chat(f"/image {picture}", "what?", f"/image '{wide_picture}'", "and now?")
    assert status == 0
    assert "picture 2" in receipts


def test_the_budget_can_be_changed(chat, picture):
    status, _, receipts = chat("/budget 0", "what?", "/budget 5", "what?", images=[picture])
    assert status == 0, receipts
    assert "the low-res view only" in receipts


def test_boxes_for_the_pictures_of_the_next_question(chat, picture):
    status, _, receipts = chat("/guided-by 10,10,50,50", "what?", images=[picture])
    assert status == 0, receipts


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_explain_writes_the_lens_of_the_last_answer(chat, picture, tmp_path, suffix):
    lens = tmp_path / f"lens.{suffix}"
    status, _, _ = chat("what?", f"/explain {lens}", images=[picture])
    assert status == 0
    assert lens.stat().st_size > 1000


def test_new_forgets_the_pictures(chat, picture):
    status, _, receipts = chat("what?", "/new", "what?", images=[picture], options=["--budget", "0"])
    assert status == 0
    assert receipts.count("120 x 90 px") == 1


def test_help_and_quit(chat):
    status, text, _ = chat("/help", "/quit", "never read")
    assert status == 0
    assert "/image" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/dance", "unknown command '/dance'"),
        ("/budget lots", "'lots'"),
        ("/image", "/image without a file"),
        ("/image 'half", "quote"),
        ("/image /no/such.png", "/no/such.png"),
        ("/guided-by magic", "'magic'"),
        ("/guided-by 1,2,3,4", "no picture yet"),
        ("/explain lens.html", "before the first answer"),
    ],
)
def test_a_script_stops_at_the_first_error(chat, line, expected):
    status, text, error = chat(line, "/help")
    assert (status, text) == (2, "")
    assert error.startswith("error: ")
    assert expected in error
