import base64
import io
import signal
import threading
import time

import pytest
from PIL import Image, ImageChops

from eval.endpoint import EndpointChat, EndpointError
from eval.failures import CannotGoOnError
from eval.launch import main
from eval.store import PredictionFile, read_predictions
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_picture


class Waits(list):
    def __call__(self, seconds):
        self.append(seconds)


def chat(fake, **changes):
    waits = Waits()
    options = {"base_url": fake.base_url, "timeout": 5, "retries": 3, "sleep": waits}
    return EndpointChat("some-model", **{**options, **changes}), waits


def ask(asker):
    return asker.ask([tiny_picture(32, 24)], "which?", 9)


def test_the_request_is_a_chat_completion_with_the_picture_as_it_is(fake):
    reply = ask(chat(fake)[0])
    assert (reply.text, reply.prompt_tokens, reply.visual_tokens) == ("B", 7, 5)
    ((path, headers, body),) = fake.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 9)
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "which?"}
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1])))
    assert ImageChops.difference(sent, tiny_picture(32, 24)).getbbox() is None


def test_the_key_comes_from_the_environment_and_never_shows(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key-1")
    fake.script = [(401, {"error": "bad key secret-key-1"}, {})]
    with pytest.raises(CannotGoOnError, match="OPENAI_API_KEY") as caught:
        ask(chat(fake)[0])
    assert fake.requests[0][1]["Authorization"] == "Bearer secret-key-1"
    assert "secret-key-1" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(fake, status):
    fake.script = [(status, "busy", {}), (status, "busy", {})]
    asker, waits = chat(fake)
    assert ask(asker).text == "B"
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2


def test_retry_after_is_kept_to(fake):
    fake.script = [(429, "slow down", {"Retry-After": "7"}), (429, "again", {"Retry-After": "900"})]
    asker, waits = chat(fake)
    assert ask(asker).text == "B"
    assert waits == [7.0, 60.0]


def test_a_limit_that_stays_ends_the_run(fake):
    fake.reply = lambda body: (429, "quota", {})
    with pytest.raises(CannotGoOnError, match="429: quota; wait"):
        ask(chat(fake, retries=2)[0])
    assert len(fake.requests) == 3


def test_a_refused_question_is_not_tried_again(fake):
    fake.script = [(400, {"error": {"message": "image too large"}}, {})]
    with pytest.raises(EndpointError, match=r"answered 400.*image too large"):
        ask(chat(fake)[0])
    assert len(fake.requests) == 1


def test_a_newer_name_of_the_limit_is_learnt(fake):
    fake.script = [(400, "Unsupported: max_tokens. Use 'max_completion_tokens' instead.", {})]
    asker, _ = chat(fake)
    assert ask(asker).text == ask(asker).text == "B"
    assert [("max_tokens" in body) for _, _, body in fake.requests] == [True, False, False]
    assert fake.requests[-1][2]["max_completion_tokens"] == 9


def test_a_redirect_is_not_followed(fake):
    fake.script = [(302, "", {"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(CannotGoOnError, match=r"302.*--base-url"):
        ask(chat(fake)[0])


def test_a_silent_endpoint_is_given_up_after_the_retries(fake):
    release = threading.Event()
    fake.reply = lambda body: lambda handler: release.wait(5)
    asker, waits = chat(fake, timeout=0.1, retries=1)
    with pytest.raises(EndpointError, match=r"no answer in 0\.1 s \(2 tries\)"):
        ask(asker)
    release.set()
    assert len(waits) == 1


def test_a_cut_connection_is_tried_again(fake):
    fake.script = [lambda handler: handler.connection.close()]
    asker, waits = chat(fake)
    assert ask(asker).text == "B"
    assert len(waits) == 1


@pytest.mark.parametrize("content", ["<html>", [], {"choices": []}])
def test_an_answer_of_another_kind_is_named(fake, content):
    fake.script = [(200, content, {})]
    with pytest.raises(EndpointError, match="/v1/chat/completions"):
        ask(chat(fake)[0])


def test_nobody_there_ends_the_run(fake):
    asker, _ = chat(fake, base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(CannotGoOnError, match="--base-url"):
        ask(asker)


@pytest.mark.parametrize("changes", [{"base_url": "localhost"}, {"timeout": 0}, {"retries": -1}])
def test_impossible_options_are_one_line(fake, changes):
    with pytest.raises(VilaHDError, match="--"):
        chat(fake, **changes)


def run(fake, out, *more):
    argv = ["--model", "openai:some-model", "--base-url", fake.base_url, "--tasks", "choices"]
    return main([*argv, "--out", str(out), "--retries", "0", *more])


def test_the_runner_asks_several_at_a_time_and_keeps_failures_apart(fake, choices, tmp_path):
    def reply(body):
        text = body["messages"][0]["content"][-1]["text"]
        return (400, "no", {}) if "question 3" in text else fake.answer("ABCD"[int(text.split()[1][0]) % 4])

    fake.reply = reply
    assert run(fake, tmp_path, "--processes", "3", "--max-pixels", "100") == 2
    settings, predictions = read_predictions(tmp_path / "choices.jsonl")
    assert (settings["model"], settings["base_url"]) == ("openai:some-model", fake.base_url)
    assert {uid: entry.score for (uid, _), entry in predictions.items()} == {
        "q0": 1.0, "q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 1.0, "q5": 1.0,
    }  # fmt: skip
    assert predictions["q3", "own"].error.startswith("EndpointError")
    url = fake.requests[0][2]["messages"][0]["content"][0]["image_url"]["url"]
    width, height = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size
    assert 80 <= width * height <= 100


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, also in a process that was started in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_the_answers_that_are_on_their_way(fake, choices, tmp_path):
    def reply(body):
        time.sleep(0.2)  # by then all questions wait for their turn
        if "question 0" in body["messages"][0]["content"][-1]["text"]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.3)  # nothing is answered before Ctrl-C
        return fake.answer()

    fake.reply = reply
    assert run(fake, tmp_path, "--processes", "2") == 130
    _, predictions = read_predictions(tmp_path / "choices.jsonl")
    assert ("q0", "own") in predictions
    assert len(fake.requests) == len(predictions) < 6


@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_while_an_answer_is_stored_keeps_it_and_the_others(
    fake, choices, tmp_path, monkeypatch, before
):
    write, interrupted = PredictionFile._write, []

    def write_interrupted(file, values):
        stored = "prediction" in values
        if stored and before and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        write(file, values)
        if stored and not before and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(PredictionFile, "_write", write_interrupted)
    fake.reply = lambda body: (time.sleep(0.2), fake.answer())[1]
    assert run(fake, tmp_path, "--processes", "2") == 130
    _, predictions = read_predictions(tmp_path / "choices.jsonl")
    assert len(fake.requests) == len(predictions) < 6


def test_a_refused_key_keeps_the_answers_that_are_on_their_way(fake, choices, tmp_path):
    def reply(body):
        if "question 0" in body["messages"][0]["content"][-1]["text"]:
            return (401, "who are you", {})
        time.sleep(0.5)
        return fake.answer()

    fake.reply = reply
    assert run(fake, tmp_path, "--processes", "2") == 2
    _, predictions = read_predictions(tmp_path / "choices.jsonl")
    assert len(fake.requests) - 1 == len(predictions) > 0


def test_the_runner_keeps_what_was_answered_when_it_cannot_go_on(fake, choices, tmp_path, capsys):
    fake.script = [fake.answer(), fake.answer(), (401, "who are you", {})]
    assert run(fake, tmp_path) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err.splitlines()[-1]
    assert len(read_predictions(tmp_path / "choices.jsonl")[1]) == 2
    assert run(fake, tmp_path) == 0
    assert len(fake.requests) == 3 + 4
