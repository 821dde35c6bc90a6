"""Text out of tokens, and tokens out of scores."""

import pytest
import torch

from vila_hd.serving.answer_text import AnswerText
from vila_hd.serving.picking import TokenPicker, pick_tokens
from vila_hd.serving.questions import Sampling
from vila_hd.testing import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces(text, *stops):
    writer = AnswerText(TOKENIZER, stops)
    found = []
    for token in TOKENIZER(text, add_special_tokens=False)["input_ids"]:
        found.append(writer.add(token))
        if writer.stopped:
            break
    return [*found, writer.finish()], writer.stopped


@pytest.mark.parametrize("text", ["plain words", "snow ☃ and 🦜 and é", "  spaces \n\n lines", ""])
def test_pieces_are_the_text(text):
    found, stopped = pieces(text)
    assert "".join(found) == text
    assert not stopped


def test_no_half_characters():
    found, _ = pieces("é☃🦜")
    assert [piece for piece in found if piece] == ["é", "☃", "🦜"]


def test_missing_bytes_are_shown_at_the_end():
    writer = AnswerText(TOKENIZER)
    first = TOKENIZER("☃", add_special_tokens=False)["input_ids"][0]
    assert writer.add(first) == ""
    assert "�" in writer.finish()


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("one. two", (". ",), "one"),
        ("aab", ("ab",), "a"),
        ("abcabd", ("abd",), "abc"),
        ("say stop now", ("now", "stop"), "say "),
        ("stop", ("stop",), ""),
    ],
)
def test_a_stop_ends_the_text_before_it(text, stops, left):
    found, stopped = pieces(text, *stops)
    assert "".join(found) == left
    assert stopped


def test_the_beginning_of_a_stop_is_held_back_until_it_is_none():
    found, stopped = pieces("a stone", "stop")
    assert "".join(found) == "a stone"
    assert not stopped
    found, _ = pieces("ends in st", "stop")
    assert "".join(found) == "ends in st"


def test_special_tokens_are_no_text():
    writer = AnswerText(TOKENIZER)
    assert writer.add(TOKENIZER.eos_token_id) + writer.finish() == ""


def picker(**options):
    return TokenPicker(Sampling(max_new_tokens=1, **options), TOKENIZER, [0])


def test_zero_temperature_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    assert [token for token, _ in pick_tokens(logits, [picker(), picker()])] == [1, 0]


def test_top_p_leaves_out_the_unlikely():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawn = {picker(temperature=1.0, top_p=0.7, seed=seed).pick(logits)[0] for seed in range(60)}
    assert drawn == {0, 1}


def test_draws_follow_the_chances():
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1]))
    one = picker(temperature=1.0, seed=0)
    drawn = torch.tensor([one.pick(logits)[0] for _ in range(2000)])
    assert torch.allclose(torch.bincount(drawn) / 2000, logits.exp(), atol=0.04)


def test_reported_chances_are_those_before_temperature():
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    token, report = picker(temperature=2.0, seed=1, top_logprobs=2).pick(logits)
    assert report.logprob == pytest.approx(float(logits[token]), abs=1e-5)
    assert [chance.logprob for chance in report.top] == pytest.approx(logits[:2].tolist(), abs=1e-5)


def test_an_impossible_token_is_never_picked():
    logits = torch.tensor([float("-inf"), 0.0, 0.0])
    assert 0 not in {picker(temperature=5.0, seed=seed).pick(logits)[0] for seed in range(40)}
