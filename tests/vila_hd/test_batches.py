"""Batches: the answers of ``ask``, texts that end answers, prompts that cannot be answered."""

import copy
import logging
import re

import pytest

from vila_hd import HighResOptions, VilaHDError, ask
from vila_hd.batches import Prompt, PromptError, StopAtTexts, answer_batch, count_new, cut_at
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor, user_message

SHOWN = ([(100, 60)], [], [(70, 120), (128, 128)], [(20, 90)])
"""Sizes of the pictures of each prompt."""

QUESTIONS = ("what is it?", "no picture here", "which of these two is the larger one?", "where?")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def prompts():
    pictures = [[tiny_picture(*size) for size in sizes] for sizes in SHOWN]
    return [
        Prompt([user_message(question, *shown)], shown)
        for question, shown in zip(QUESTIONS, pictures, strict=True)
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [0, 40, "all"])
def test_a_batch_answers_as_ask_does(model, budget, side):
    processor = tiny_processor()
    processor.tokenizer.padding_side = side  # of no importance to batches
    options = HighResOptions(budget=budget)
    found = answer_batch(model, processor, prompts(), high_res=options, max_new_tokens=6)
    for prompt, question, answer in zip(prompts(), QUESTIONS, found, strict=True):
        alone = ask(model, processor, prompt.pictures, question, high_res=options, max_new_tokens=6)
        receipt = alone.receipt
        assert answer.text == alone.text
        assert answer.new_tokens == receipt.new_tokens
        high = sum(look.high_res_tokens + look.low_res_tokens for look in alone.looks)
        assert answer.prompt_tokens == receipt.prompt_tokens + high


def test_prompts_without_any_picture(model, processor):
    texts = [Prompt([user_message(question)], []) for question in QUESTIONS]
    found = answer_batch(model, processor, texts, max_new_tokens=6)
    assert [answer.text for answer in found] == [
        ask(model, processor, [], question, max_new_tokens=6).text for question in QUESTIONS
    ]


def test_texts_end_answers(model, processor):
    whole = answer_batch(model, processor, prompts(), max_new_tokens=8)
    longest = max(range(len(whole)), key=lambda row: len(whole[row].text))
    letter = whole[longest].text[1]
    cut = answer_batch(model, processor, prompts(), max_new_tokens=8, until=[letter])
    for long, short in zip(whole, cut, strict=True):
        assert short.text == long.text.split(letter)[0].strip()
        assert short.new_tokens <= long.new_tokens
    assert cut[longest].new_tokens < whole[longest].new_tokens


def test_only_texts_of_the_answer_end_it(processor):
    stop = StopAtTexts(processor.tokenizer, ["\n\n"])
    answers = [
        bool(stop(processor.tokenizer(f"the end\n{text}", return_tensors="pt")["input_ids"], None)[0])
        for text in ("\n", "\na", "\na\n\n")
    ]
    assert answers == [False, False, True]


def test_the_first_text_counts():
    assert cut_at("one two three", ["three", "two"]) == "one "
    assert cut_at("one", ["two"]) == "one"
    assert cut_at("one", []) == "one"


def test_tokens_of_an_answer():
    assert count_new([5, 6, 2, 0, 0], 0, [2]) == 3
    assert count_new([5, 6, 2, 2, 2], 2, [2]) == 3
    assert count_new([5, 6, 7], 0, [2]) == 3
    assert count_new([0, 0], 0, [2]) == 0


def test_a_prompt_that_is_too_long_is_named(processor):
    model = tiny_model(tiny_config(text={"max_position_embeddings": 120}))
    options = HighResOptions(budget="all")
    with pytest.raises(PromptError, match=re.escape("the language model reads 120")) as caught:
        answer_batch(model, processor, prompts()[1:], high_res=options)
    assert caught.value.number == 1
    texts = [Prompt([user_message("short")], []), Prompt([user_message("long" * 40)], [])]
    with pytest.raises(PromptError, match="0 of them high-resolution") as caught:
        answer_batch(model, processor, texts)
    assert caught.value.number == 1


def test_placeholders_belong_to_their_own_prompt(model, processor):
    good, stray = prompts()[0], Prompt([user_message("what is <image>?")], [tiny_picture()] * 2)
    with pytest.raises(PromptError, match=re.escape("1 <image> placeholder(s) but 2 picture(s)")) as caught:
        answer_batch(model, processor, [good, stray])
    assert caught.value.number == 1
    with pytest.raises(VilaHDError, match="max_new_tokens=0"):
        answer_batch(model, processor, [good], max_new_tokens=0)


def test_transformers_has_nothing_to_warn_about(model, processor, caplog):
    """One config, without settings next to it."""
    sampling = copy.deepcopy(model.generation_config)
    sampling.update(do_sample=True, temperature=0.7)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            for config in (None, sampling):
                answer_batch(model, processor, prompts()[:2], max_new_tokens=2, generation_config=config)
                ask(model, processor, [], "what?", max_new_tokens=2, generation_config=config)
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
    assert caplog.messages == []
    assert sampling.max_new_tokens is None
