"""The API through the client of OpenAI."""

import json
import time
import urllib.request

import openai
import pytest

import vila_hd
from vila_hd import HighResOptions
from vila_hd.options import Pruning
from vila_hd.testing import tiny_picture

from .conftest import data_url, message


def ask(client, messages, **options):
    high_res = options.pop("high_res", None)
    extra = {} if high_res is None else {"extra_body": {"high_res": high_res}}
    options = {"max_tokens": 12, **options}
    return client.chat.completions.create(model="tiny", messages=messages, **options, **extra)


def text_of(answer):
    return answer.choices[0].message.content


@pytest.mark.parametrize(
    "look", [{}, {"budget": 0}, {"budget": 40}, {"budget": "all"}, {"guided_by": "saliency", "smooth": True}]
)
def test_answers_are_those_of_the_library(client, model, processor, picture, look):
    answer = ask(client, [message("what is it?", picture)], high_res=look)
    same = vila_hd.ask(
        model, processor, [picture], "what is it?", high_res=HighResOptions(**look), max_new_tokens=12
    )
    assert text_of(answer).strip() == same.text
    assert answer.usage.completion_tokens == same.receipt.new_tokens
    assert answer.usage.prompt_tokens == same.receipt.prompt_tokens + same.receipt.visual_tokens
    assert answer.usage.prompt_tokens_details.image_tokens == same.receipt.visual_tokens


@pytest.mark.parametrize("pruning", ["tome:0.5", "visionzip:0.25"])
def test_tokens_are_pruned_as_in_the_library(client, model, processor, picture, pruning):
    messages = [message("what is it?", picture)]
    answer = ask(client, messages, high_res={"pruning": pruning})
    options = HighResOptions(pruning=Pruning.parse(pruning))
    same = vila_hd.ask(model, processor, [picture], "what is it?", high_res=options, max_new_tokens=12)
    assert text_of(answer).strip() == same.text
    tokens = answer.usage.prompt_tokens_details.image_tokens
    assert (
        tokens == same.receipt.visual_tokens < ask(client, messages).usage.prompt_tokens_details.image_tokens
    )


def test_a_stream_is_the_answer_in_pieces(client, picture):
    messages = [message("what is it?", picture)]
    whole = ask(client, messages)
    chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [c.choices[0].delta.content for c in chunks[:-1] if c.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == text_of(whole)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump()


def test_a_conversation_with_several_pictures(client, model, processor, picture):
    other = tiny_picture(64, 128, seed=5)
    first = vila_hd.ask(model, processor, [picture], "what is it?", max_new_tokens=6)
    second = vila_hd.ask(model, processor, [other], "and this?", max_new_tokens=6, history=first.history)
    messages = [
        message("what is it?", picture),
        {"role": "assistant", "content": first.text},
        message("and this?", other),
    ]
    answer = ask(client, messages, max_tokens=6)
    assert text_of(answer).strip() == second.text
    assert answer.usage.prompt_tokens_details.image_tokens == second.receipt.visual_tokens


def test_system_prompts_and_questions_without_pictures(client):
    plain = ask(client, [message("hello")])
    told = ask(client, [{"role": "system", "content": "Answer in rhymes."}, message("hello")])
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens
    assert text_of(told) != text_of(plain)
    assert plain.usage.prompt_tokens_details.image_tokens == 0


def test_a_seed_repeats_an_answer(client, picture):
    messages = [message("what is it?", picture)]
    texts = [text_of(ask(client, messages, temperature=2.0, seed=seed)) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    assert text_of(ask(client, messages, temperature=2.0, top_p=1e-6, seed=9)) == text_of(
        ask(client, messages)
    )


def test_stop_texts(client, picture):
    messages = [message("what is it?", picture)]
    whole = text_of(ask(client, messages, max_tokens=24))
    stop = next(whole[i : i + 2] for i in range(4, 20) if whole.isascii() or whole[i : i + 2].isascii())
    answer = ask(client, messages, max_tokens=24, stop=[stop, "never said"])
    assert text_of(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    pieces = ask(client, messages, max_tokens=24, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == text_of(answer)


def test_logprobs(client):
    answer = ask(client, [message("hello")], logprobs=True, top_logprobs=3, max_tokens=5)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob < 0  # greedy
        assert token.token == token.top_logprobs[0].token
    assert ask(client, [message("hello")]).choices[0].logprobs is None


def test_answers_in_json(client):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = ask(client, [message("is it?")], response_format=form, max_tokens=40)
    assert set(json.loads(text_of(answer))) == {"ok"}


def test_explanations_tell_receipt_and_boxes(client, picture):
    options = {"budget": 20, "regions": [[0, 0, 30, 30]], "explain": True}
    answer = ask(client, [message("what is it?", picture)], high_res=options)
    told = answer.model_extra["high_res"]
    assert told["receipt"]["new_tokens"] == answer.usage.completion_tokens
    assert told["receipt"]["looks"][0]["original_size"] == [120, 90]
    (boxes,) = told["boxes"]
    assert boxes
    for found in boxes:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 < x2 <= 120
        assert 0 <= y1 < y2 <= 90
    last = list(ask(client, [message("what is it?", picture)], high_res=options, stream=True))[-1]
    assert last.model_extra["high_res"]["boxes"] == told["boxes"]
    assert "high_res" not in (ask(client, [message("hello")]).model_extra or {})


def refused(client, status, messages=None, **options):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, [message("hello")] if messages is None else messages, **options)
    assert caught.value.status_code == status
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value.body


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"n": 2}, "n", "only n=1"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 100_000}, "max_tokens", "at most 1024"),
        ({"top_logprobs": 2}, "top_logprobs", "without logprobs"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"presence_penalty": 1.0}, "presence_penalty", "not supported"),
        ({"high_res": {"budge": 3}}, "high_res.budge", "not permitted"),
        ({"high_res": {"budget": -1}}, None, "budget=-1"),
        ({"high_res": {"regions": [[0, 0, 1, 1]]}}, None, "without a picture"),
        ({"messages": []}, "messages", "at least 1"),
        ({"extra_body": {"tools": []}}, "tools", "not permitted"),
    ],
)
def test_what_cannot_be_done_is_said(client, options, param, words):
    body = refused(client, 400, **options)
    assert body["param"] == param
    assert words in body["message"]


@pytest.mark.parametrize(
    ("look", "words"),
    [
        ({"regions": [[0, 0, 500, 10]]}, "leaves the picture of 120x90"),
        ({"regions": [[], []]}, "2 list(s) of boxes for 1 picture(s)"),
        ({"per_scale": [1]}, "use 2 numbers"),
        ({"max_scale": 77}, "use one of 64, 128"),
        ({"pruning": "fastv:0.5"}, "use tome or visionzip here"),
        ({"pruning": "all"}, "use METHOD:KEEP"),
    ],
)
def test_options_that_do_not_fit_the_picture_or_the_model(client, picture, look, words):
    assert words in refused(client, 400, [message("hello", picture)], high_res=look)["message"]


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        client.chat.completions.create(model="gpt-9", messages=[message("hello")])
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_prompt_longer_than_the_context(client):
    body = refused(client, 400, [message("a" * 5000)])
    assert body["code"] == "context_length_exceeded"


def read(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as response:
        return response.read().decode()


def metric(server, name):
    lines = read(server, "/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_health_and_metrics(client, server):
    assert json.loads(read(server, "/health")) == {"status": "ok"}
    before = metric(server, 'vilahd_tokens_total{kind="new"}')
    ask(client, [message("hello")], max_tokens=5)
    assert metric(server, 'vilahd_tokens_total{kind="new"}') == before + 5
    assert metric(server, "vilahd_first_token_seconds_count") > 0


def test_leaving_a_stream_ends_the_answer(client, server):
    before = metric(server, 'vilahd_answers_total{end="cancelled"}')
    stream = ask(client, [message("hello")], max_tokens=1000, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 60
    while metric(server, 'vilahd_answers_total{end="cancelled"}') == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while metric(server, "vilahd_inside") or metric(server, "vilahd_running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_files_of_allowed_folders(client, server, picture, tmp_path):
    (server.shown / "a b.png").write_bytes(b"")
    picture.save(server.shown / "a b.png")
    shown = {"type": "image_url", "image_url": {"url": (server.shown / "a b.png").as_uri()}}
    words = {"type": "text", "text": "what is it?"}
    answer = ask(client, [{"role": "user", "content": [shown, words]}])
    assert text_of(answer) == text_of(ask(client, [message("what is it?", picture)]))


def test_pictures_of_other_kinds(client, picture):
    content = [{"type": "image_url", "image_url": {"url": data_url(picture, "JPEG")}}]
    answer = ask(client, [{"role": "user", "content": [*content, {"type": "text", "text": "what is it?"}]}])
    assert answer.usage.prompt_tokens_details.image_tokens > 0
