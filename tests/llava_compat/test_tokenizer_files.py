"""Tokenizers of published folders: extra tokens, stop tokens, files."""

import json

import pytest

from llava_compat.tokenizer_files import (
    Added,
    find_stop_ids,
    max_length_of,
    read_tokenizer,
    strip_pictures,
    write_tokenizer,
)
from vila_hd import VilaHDError, add_pictures_to_template
from vila_hd.testing import CHATML, tiny_tokenizer


def test_stop_tokens_are_what_follows_answers():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<vila/sentinel>"], special_tokens=True)
    assert find_stop_ids(tokenizer, CHATML) == [tokenizer.eos_token_id]
    other = "{% for m in messages %}{{ m['content'] + ('#' if loop.last else '|') }}{% endfor %}"
    ids = tokenizer.convert_tokens_to_ids(["|", "#"])
    assert find_stop_ids(tokenizer, other) == [tokenizer.eos_token_id, *ids]


def test_stop_tokens_need_no_sentinel():
    tokenizer = tiny_tokenizer()
    assert find_stop_ids(tokenizer, add_pictures_to_template(CHATML)) == [tokenizer.eos_token_id]


def test_a_failing_template_is_one_line():
    with pytest.raises(VilaHDError, match=r"the chat template fails .*no way"):
        find_stop_ids(tiny_tokenizer(), "{{ raise_exception('no way') }}")


@pytest.mark.parametrize(("length", "expected"), [(2048, 2048), (10**30, None), (0, None)])
def test_an_endless_context_is_no_limit(length, expected):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = length
    assert max_length_of(tokenizer) == expected


def test_pictures_are_taken_out_of_templates():
    assert strip_pictures(add_pictures_to_template(CHATML)) == CHATML
    assert strip_pictures(CHATML) == CHATML


def test_what_writing_adds_reading_takes_away(tmp_path):
    tokenizer = tiny_tokenizer()
    added = write_tokenizer(tmp_path, tokenizer, add_pictures_to_template(CHATML))
    assert added == Added(("[BOS]", "[PAD]", "<vila/sentinel>", "<vila/video>"), None, "<|endoftext|>")
    again = read_tokenizer(tmp_path, Added.parse(json.loads(json.dumps(added.to_dict()))))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.bos_token, again.pad_token) == (None, "<|endoftext|>")
    assert again.chat_template == CHATML
    # Whoever does not know what was added reads the published tokenizer.
    plain = read_tokenizer(tmp_path)
    assert len(plain) == len(tokenizer) + 4
    assert (plain.bos_token, plain.pad_token) == ("[BOS]", "[PAD]")
    text = "<|im_start|>user\n<image>12 é<|im_end|>"
    assert plain(text)["input_ids"] == again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_complete_tokenizers_are_written_as_they_are(vila_goldens, tmp_path):
    folder = vila_goldens.model_folder("hd_2x2_prompt_mlp") / "llm"
    tokenizer = read_tokenizer(folder)
    assert write_tokenizer(tmp_path, tokenizer, tokenizer.chat_template).tokens == ()
    ours, theirs = (json.loads((place / "tokenizer.json").read_text()) for place in (tmp_path, folder))
    assert ours == theirs
    ours, theirs = (json.loads((place / "tokenizer_config.json").read_text()) for place in (tmp_path, folder))
    same = ("added_tokens_decoder", "additional_special_tokens", "bos_token", "eos_token", "pad_token")
    for key in (*same, "chat_template", "model_max_length", "padding_side", "unk_token"):
        assert ours[key] == theirs[key], key


def test_tokens_added_behind_ours_are_not_lost(tmp_path):
    added = write_tokenizer(tmp_path, tiny_tokenizer(), CHATML)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][-1], "id": 300, "content": "<new>"})
    path.write_text(json.dumps(values))
    with pytest.raises(VilaHDError, match="tokens were added after"):
        read_tokenizer(tmp_path, added)


@pytest.mark.parametrize(
    "value", [None, 3, {}, {"tokens": "x"}, {"tokens": [1]}, {"tokens": [], "bos_token": 1}]
)
def test_malformed_notes_are_refused(value):
    with pytest.raises(VilaHDError, match=r"vila_hd\.added"):
        Added.parse(value)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model": {}}', '{"model": {"type": "BPE"}, "added_tokens": 3}']
)
def test_broken_tokenizers_are_one_line(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(VilaHDError) as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
