"""The processor: expansion in id space, counts, padding, templates, saving."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from vila_hd import HighResOptions, VilaHDError, VilaHDProcessor, add_pictures_to_template
from vila_hd.testing import CHATML, tiny_picture, tiny_processor, tiny_tokenizer, user_message


@pytest.fixture(scope="module")
def processor() -> VilaHDProcessor:
    return tiny_processor()


def tokens(processor: VilaHDProcessor, ids: list[int]) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(ids)


def test_placeholder_becomes_image_tokens_and_the_end_text(processor: VilaHDProcessor) -> None:
    ids = processor(tiny_picture(), "a<image>b")["input_ids"][0]
    assert tokens(processor, ids) == ["a", *["<image>"] * 4, "\u010a", "b"]


def test_expansion_never_retokenises_the_words(processor: VilaHDProcessor) -> None:
    text = "x<image>y z<image>\n"
    plain = processor.tokenizer(text)["input_ids"]
    ids = processor([tiny_picture()] * 2, text)["input_ids"][0]
    block = [processor.image_token_id] * 4 + processor.image_end_ids
    assert ids == [i for token in plain for i in (block if token == processor.image_token_id else [token])]


def test_pictures_are_raw_and_a_list_where_shapes_differ(processor: VilaHDProcessor) -> None:
    same = processor([tiny_picture()] * 2, "<image><image>", return_tensors="pt")
    assert (same["pixel_values"].shape, same["pixel_values"].dtype) == ((2, 3, 128, 128), torch.uint8)
    mixed = processor([tiny_picture(), tiny_picture(200, 100)], "<image><image>", return_tensors="pt")
    assert [tuple(value.shape) for value in mixed["pixel_values"]] == [(3, 128, 128), (3, 64, 128)]
    assert mixed["image_sizes"].tolist() == [[128, 128], [100, 200]]
    moved = mixed.to(torch.bfloat16)
    assert moved["pixel_values"][1].dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "text", "words"),
    [
        ([], "<image>", "text 0 has 1 <image> placeholder\\(s\\) but there are 0"),
        (None, "<image>", "1 <image> placeholder"),
        ([tiny_picture()], "no place", "0 <image> placeholder\\(s\\) but there are 1"),
        ([[tiny_picture()], []], ["a", "<image>"], "text 0 has 0"),
        ([tiny_picture()], ["<image>", "<image>"], "together have 2 .* are 1"),
        ([[tiny_picture()]], ["<image>", "a"], "1 lists of pictures for 2 text"),
        ([3], "<image>", "picture of type int"),
        (["nowhere.png"], "<image>", "nowhere.png: no such file"),
    ],
)
def test_what_does_not_fit_is_named(processor: VilaHDProcessor, images: Any, text: Any, words: str) -> None:
    with pytest.raises(VilaHDError, match=words):
        processor(images, text)


def test_too_long_is_an_error_and_nothing_is_cut(processor: VilaHDProcessor) -> None:
    with pytest.raises(VilaHDError, match="input of 6 tokens, but max_length=5"):
        processor(tiny_picture(), "a<image>", max_length=5, truncation=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_offsets_keep_step(side: str) -> None:
    processor = tiny_processor()
    processor.tokenizer.padding_side = side
    batch = processor([[tiny_picture()], []], ["<image>ab", "c"], padding=True, return_offsets_mapping=True)
    assert [sum(mask) for mask in batch["attention_mask"]] == [7, 1]
    for ids, mask, offsets in zip(
        batch["input_ids"], batch["attention_mask"], batch["offset_mapping"], strict=True
    ):
        assert len(ids) == len(mask) == len(offsets) == 7
        assert all((end > start) == bool(keep) for (start, end), keep in zip(offsets, mask, strict=True))


def test_texts_of_different_length_need_padding(processor: VilaHDProcessor) -> None:
    with pytest.raises(VilaHDError, match="padding=True"):
        processor(None, ["a", "bc"], return_tensors="pt")


def test_template_joins_content_in_the_order_given(processor: VilaHDProcessor) -> None:
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "left "},
            {"type": "image"},
            {"type": "text", "text": " right "},
            {"type": "image"},
        ],
    }
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    assert text == "<|im_start|>user\nleft <image> right <image><|im_end|>\n<|im_start|>assistant\n"


def test_template_leaves_plain_text_as_the_language_model_had_it(processor: VilaHDProcessor) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
    ]
    expected = tiny_tokenizer().apply_chat_template(chat, tokenize=False)
    assert processor.apply_chat_template(chat) == expected
    assert add_pictures_to_template(add_pictures_to_template(CHATML)) == add_pictures_to_template(CHATML)


def test_content_of_an_unknown_kind_is_refused(processor: VilaHDProcessor) -> None:
    message = {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}
    with pytest.raises(VilaHDError, match="content of type audio"):
        processor.apply_chat_template([message])


def test_assistant_mask_covers_the_answers_only(processor: VilaHDProcessor) -> None:
    chat = [
        user_message("one?", tiny_picture()),
        {"role": "assistant", "content": "yes"},
        user_message("two?", tiny_picture(90, 50)),
        {"role": "assistant", "content": "no"},
    ]
    batch = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    mask = torch.as_tensor(batch["assistant_masks"]).bool()
    assert processor.tokenizer.decode(batch["input_ids"][mask]) == "yes<|im_end|>no<|im_end|>"


def test_end_of_the_question_is_found_in_the_template(processor: VilaHDProcessor) -> None:
    assert processor.tokenizer.decode(processor.find_prompt_end_ids()) == "<|im_end|>\n<|im_start|>assistant"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (HighResOptions(budget=0), (0, 0)),
        # 100 x 50 pixels: grids of 4 x 8 and 8 x 16 patches, 8 and 32 tokens.
        (HighResOptions(budget="all"), (40, 40)),
        (HighResOptions(budget="all", max_scale=64), (8, 8)),
        (HighResOptions(budget=3), (1, 1)),
        (HighResOptions(budget=80), (20, 20)),
    ],
)
def test_image_tokens_are_counted_from_the_size(
    processor: VilaHDProcessor, options: HighResOptions, expected: tuple[int, int]
) -> None:
    wide, tall = processor.count_image_tokens([(50, 100), (100, 50)], options)
    assert (wide.high_res, tall.high_res) == expected
    assert wide.total == 4 + expected[0] + 1


def test_saved_and_loaded_processor_is_equal(processor: VilaHDProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is VilaHDProcessor
    ignored = {"auto_map": None, "tokenizer": None}
    assert {**loaded.to_dict(), **ignored} == {**processor.to_dict(), **ignored}
    chat = [user_message("hi", tiny_picture(90, 60))]
    ours, theirs = (
        p.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        for p in (processor, loaded)
    )
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_folder_without_chat_template_is_refused(tmp_path: Path) -> None:
    tiny_processor().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(VilaHDError, match=r"chat_template\.jinja"):
        VilaHDProcessor.from_pretrained(tmp_path)


def test_broken_chat_template_is_one_line() -> None:
    processor = tiny_processor()
    processor.chat_template = "{% if %}"
    with pytest.raises(VilaHDError, match="chat template fails"):
        processor.apply_chat_template([{"role": "user", "content": "hi"}])


def test_tokenizer_without_image_token_is_refused() -> None:
    processor = tiny_processor()
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(VilaHDError, match="no <image> token"):
        VilaHDProcessor(processor.image_processor, bare, 4, [32, 64], 8, 2, [16])
