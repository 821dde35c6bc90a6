import re

import pytest
import sentencepiece
from transformers import AutoTokenizer

from vila_hd.scenes import build_scene_tokenizer, vocabulary_corpus
from vila_hd.scenes.tokenizer import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_scene_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def fast(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_ids_equal_sentencepiece(fast, trained):
    odd = ["", " two  spaces ", "redwhite", "zigzagging?", "RED \u00e9 \u4e2d sign"]
    for line in {*vocabulary_corpus(), *odd}:
        assert fast.encode(line, add_special_tokens=False) == trained.encode(line), line


def test_every_word_is_one_piece_and_text_comes_back(fast):
    for line in set(vocabulary_corpus()):
        ids = fast.encode(line, add_special_tokens=False)
        assert len(ids) == len(re.findall(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]", line)), line
        assert fast.unk_token_id not in ids
        assert fast.decode(ids) == line


def test_vocabulary_is_small_and_specials_come_first(fast, trained):
    assert len(fast) == trained.get_piece_size() < 400
    assert fast.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert fast.encode("\n", add_special_tokens=False) == [SPECIAL_TOKENS.index("\n")]


def test_chat_template_marks_the_answer(fast):
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "dots"},
    ]
    assert fast.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True) == (
        "<|user|>\n<image>what is it?<|end|>\n<|assistant|>\n"
    )
    both = fast.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mask in zip(both["input_ids"], both["assistant_masks"], strict=True) if mask]
    assert fast.decode(marked) == "dots<|end|>"


def test_training_is_repeatable(folder, tmp_path):
    build_scene_tokenizer(tmp_path)
    for name in ("tokenizer.model", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
