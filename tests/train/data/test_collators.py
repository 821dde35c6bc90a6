"""What is supervised is exactly the answer and the token that ends it; items share their picture."""

import pytest
import torch

from train.box_losses import given_boxes
from train.data.collators import QuestionCollator, RegionCollator
from train.data.scenes import Picture, Questions, Regions
from vila_hd.constants import IGNORE_INDEX
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.scenes import build_scene_tokenizer
from vila_hd.testing import tiny_config, tiny_processor, tiny_tokenizer


def picture(number: int, width: int = 64, height: int = 48) -> Picture:
    return Picture(
        number, torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(2, 4).long(), "a town"
    )


def scene_processor(folder) -> VilaHDProcessor:
    tokenizer = build_scene_tokenizer(folder)
    tiny = tiny_processor()
    return VilaHDProcessor.from_config(
        tiny_config(),
        image_processor=tiny.image_processor,
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


def question_batch(processor: VilaHDProcessor, question: str, answer: str, prompt_end_ids=()):
    box = torch.zeros(1, 1, 4).long()
    return QuestionCollator(processor, prompt_end_ids)(
        [Questions(picture(0), box, ((question,),), ((answer,),), (False,))]
    )


@pytest.mark.parametrize("template", ["chatml", "scenes"])
def test_labels_are_the_answer_and_the_end_token(template, tmp_path):
    processor = tiny_processor() if template == "chatml" else scene_processor(tmp_path)
    end = "<|im_end|>" if template == "chatml" else "<|end|>"
    batch = question_batch(processor, "what is on the red sign?", "blue grid")
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    supervised = labels[labels != IGNORE_INDEX]
    assert processor.tokenizer.decode(supervised).replace(" ", "") == "bluegrid" + end
    # A run at the very end: nothing after the answer, nothing of the prompt.
    assert torch.equal(ids[-len(supervised) :], supervised)
    assert batch["prompt_positions"].tolist() == [len(ids) - len(supervised) - 1]


@pytest.mark.parametrize("template", ["chatml", "scenes"])
def test_ids_are_those_of_the_processor(template, tmp_path):
    processor = tiny_processor() if template == "chatml" else scene_processor(tmp_path)
    batch = question_batch(processor, "what is it?", "grid")
    user = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(user, add_generation_prompt=True)
    expected = processor(images=[picture(0).pixels], text=text, add_special_tokens=False)["input_ids"][0]
    prompt = batch["input_ids"][batch["labels"] == IGNORE_INDEX]
    assert prompt.tolist() == list(expected)
    assert int((prompt == processor.image_token_id).sum()) == processor.low_res_tokens


def test_question_batch_pads_on_the_left_and_shares_pictures():
    config = tiny_config()
    collate = QuestionCollator(tiny_processor(config), config.prompt_end_ids)
    box = torch.tensor([[[1, 2, 3, 4]]])
    asked, answers = (("what?",), ("which one is it?",)), (("a",), ("bc",))
    rows = [
        Questions(picture(7), box.repeat(2, 1, 1), asked, answers, (False, True)),
        Questions(picture(9), box, (("where?",),), (("d",),), (False,)),
    ]
    batch = collate(rows)
    assert batch["look_index"].tolist() == [0, 0, 1]
    assert batch["picture_ids"].tolist() == [7, 9]
    assert len(batch["pixel_values"]) == 2
    assert batch["own_choice"].tolist() == [False, True, False]
    assert (batch["attention_mask"][:, -1] == 1).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE_INDEX).all()
    words = [
        tiny_tokenizer().decode(row[: position + 1])[-1]
        for row, position in zip(batch["input_ids"], batch["prompt_positions"], strict=True)
    ]
    assert words == ["?", "?", "?"]


def test_region_batch_encodes_each_wording_once():
    box = torch.tensor([[1, 2, 3, 4]])
    rows = [
        Regions(picture(1), box.repeat(2, 1), ("red a", "blue b"), (("red b",), ("blue a",)), True),
        Regions(picture(2), box, ("red a",), (("red b",),), False),
    ]
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))(rows)
    assert batch["look_index"].tolist() == [0, 0, 1, 0]
    assert batch["is_global"].tolist() == [False, False, False, True]
    assert batch["boxes"][3].tolist() == [0, 0, 0, 0]
    assert len(batch["input_ids"]) == 5
    assert batch["text_index"][0] == batch["text_index"][2] != batch["text_index"][1]
    assert batch["swapped_index"][0] == batch["swapped_index"][2]
    assert batch["swapped_index"][3].tolist() == [-1]
    assert batch["caption_ids"][0] == batch["caption_ids"][2]


def test_captions_that_the_model_cannot_tell_apart_are_equal():
    box = torch.tensor([[1, 2, 3, 4]])
    captions = ("A red sign.", "a red sign", "a red sign of the year 1900", "a blue sign")
    tokenizer = PS3Tokenizer(tiny_tokenizer(), context_length=10, clean="canonicalize")
    row = Regions(picture(1), box.repeat(4, 1), captions, ((),) * 4, False)
    ids = RegionCollator(tokenizer)([row])["caption_ids"].tolist()
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_turns_share_a_look_and_bring_their_boxes():
    config = tiny_config()
    collate = QuestionCollator(tiny_processor(config), config.prompt_end_ids)
    boxes = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]], [[2, 2, 3, 3], [0, 0, 0, 0]]])
    asked, answers = (("what?", "and that?"), ("which?", "how many?")), (("a", "b"), ("c", "d"))
    batch = collate([Questions(picture(7), boxes, asked, answers, (True, False))])
    single = question_batch(tiny_processor(config), "what?", "a", config.prompt_end_ids)
    tokenizer = tiny_tokenizer()
    words = [tokenizer.decode(row[row != IGNORE_INDEX]) for row in batch["labels"]]
    assert words == ["a<|im_end|>b<|im_end|>", "c<|im_end|>d<|im_end|>"]
    padding = int((batch["attention_mask"][0] == 0).sum())
    assert int(batch["prompt_positions"][0]) - padding == int(single["prompt_positions"][0])
    assert (batch["input_ids"][0] == tiny_processor(config).image_token_id).sum() == tiny_processor(
        config
    ).low_res_tokens
    given, look = given_boxes(batch)
    width, height = batch["picture_sizes"][0].tolist()
    assert look.tolist() == [0, 1, 0, 1]
    size = torch.tensor([width, height] * 2, dtype=torch.float64)
    assert torch.equal(given[0], torch.zeros(4).double())  # the model's own choice
    assert torch.allclose(given[1] * size, boxes[1, 0].double())
    assert torch.allclose(given[2] * size, boxes[0, 1].double())
