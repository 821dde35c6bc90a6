"""Models around towers that see whole pictures: made of a PS3 trunk, saved, loaded, asked."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import vila_hd
from vila_hd.batches import Prompt, answer_batch
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3.modeling_ps3 import PS3VisionModel
from vila_hd.selection_lens import write_lens
from vila_hd.testing import (
    tiny_config,
    tiny_model,
    tiny_picture,
    tiny_processor,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
    user_message,
)
from vila_hd.towers.choice import EncoderChoice

ENCODERS = [
    EncoderChoice(kind="low_res"),
    EncoderChoice(kind="anyres", max_tiles=4),
    EncoderChoice(kind="s2", scales=(32, 64)),
]
PICTURES = [tiny_picture(300, 140), tiny_picture(20, 20, seed=1), tiny_picture(64, 400, seed=2)]
kinds = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.kind)


def pair(encoder):
    config = tiny_config(encoder=encoder)
    return tiny_model(config), tiny_processor(config)


@kinds
def test_a_model_with_the_trunk_of_a_ps3_tower_is_saved_and_loaded(encoder, tmp_path):
    ps3 = PS3VisionModel(tiny_vision_config())
    llm = AutoModelForCausalLM.from_config(tiny_text_config())
    model, processor = vila_hd.compose(tower=ps3, encoder=encoder, llm=llm, tokenizer=tiny_tokenizer())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    assert stored["model_type"] == f"vila_hd_{encoder.kind}_vision"
    loaded, again = vila_hd.load(tmp_path)
    kept = [{**pair.config.vision_config.to_dict(), "dtype": None} for pair in (loaded, model)]
    assert kept[0] == kept[1]
    trunk = loaded.model.vision_tower.vision_model.trunk.state_dict()
    assert all(torch.equal(value, trunk[name]) for name, value in ps3.vision_model.trunk.state_dict().items())
    # Nothing of the choice of patches is left.
    assert {name.split(".")[2] for name in loaded.state_dict() if "vision_tower" in name} == {"vision_model"}
    assert not any("selection" in name or "prompt" in name for name in loaded.state_dict())
    ask = {"images": PICTURES[:1], "question": "q", "max_new_tokens": 3}
    assert vila_hd.ask(loaded, again, **ask).text == vila_hd.ask(model, processor, **ask).text


@kinds
def test_counted_tokens_are_those_that_the_language_model_gets(encoder):
    model, processor = pair(encoder)
    answer = vila_hd.ask(model, processor, PICTURES, "which?", max_new_tokens=2)
    sizes = [(picture.height, picture.width) for picture in PICTURES]
    for look, count in zip(answer.receipt.looks, processor.count_image_tokens(sizes), strict=True):
        assert (look.low_res_tokens, look.high_res_tokens) == (count.low_res, count.high_res)
    low = HighResOptions(budget=0, guided_by="saliency")
    answer = vila_hd.ask(model, processor, PICTURES, "which?", max_new_tokens=2, high_res=low)
    assert answer.receipt.visual_tokens == 3 * processor.low_res_tokens


@kinds
def test_a_batch_with_no_one_and_many_pictures_is_answered_like_each_alone(encoder):
    model, processor = pair(encoder)
    groups = [[], PICTURES[:1], PICTURES, PICTURES[1:2]]
    prompts = [Prompt([user_message("what?", *group)], group) for group in groups]
    together = answer_batch(model, processor, prompts, max_new_tokens=4)
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer_batch(model, processor, [prompt], max_new_tokens=4) == [answer]


@kinds
def test_the_receipt_and_the_lens_tell_what_was_seen(encoder, tmp_path):
    model, processor = pair(encoder)
    answer = vila_hd.ask(model, processor, PICTURES[:1], "what?", max_new_tokens=2)
    lines = "\n".join(answer.receipt.lines())
    expected = "32 of 32 patches at 64 px: 100 %" if encoder.kind == "anyres" else "the whole picture at once"
    assert expected in lines
    for name in ("lens.html", "lens.png"):
        write_lens(
            tmp_path / name,
            answer.history.pictures,
            answer.looks,
            question="what?",
            answer=answer.text,
            receipt=answer.receipt,
        )
        assert (tmp_path / name).stat().st_size


@kinds
def test_a_conversation_goes_on(encoder):
    model, processor = pair(encoder)
    first = vila_hd.ask(model, processor, PICTURES[:1], "what?", max_new_tokens=2)
    second = vila_hd.ask(model, processor, [], "and?", max_new_tokens=2, history=first.history)
    assert second.receipt.looks[0].visual_tokens == first.receipt.looks[0].visual_tokens
    assert second.history.low_res is first.history.low_res  # the first view is not made again


@kinds
def test_what_belongs_to_a_choice_is_refused_in_the_config(encoder):
    for name, value in (("prompt_head", "mlp"), ("high_res_position", True), ("default_guide", "random")):
        values = tiny_config(encoder=encoder).to_dict() | {name: value}
        with pytest.raises(VilaHDError, match=f"{name}=.*chooses no patches"):
            vila_hd.VilaHDConfig(**values)


def test_an_unknown_tower_is_refused():
    with pytest.raises(VilaHDError, match="model_type 'eye': use one of ps3_vision_model"):
        vila_hd.VilaHDConfig(vision_config={"model_type": "eye"}, text_config=tiny_text_config())


def test_the_tower_of_a_whole_model_can_be_taken(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    llm = AutoModelForCausalLM.from_config(tiny_text_config())
    model, _ = vila_hd.compose(tower=tmp_path, encoder=ENCODERS[1], llm=llm, tokenizer=tiny_tokenizer())
    expected = tiny_model().model.vision_tower.vision_model.trunk.pos_embed
    assert torch.equal(model.model.vision_tower.vision_model.trunk.pos_embed, expected)


def test_random_looks_are_those_of_the_picture_whatever_the_batch():
    model, processor = tiny_model(), tiny_processor()
    options = HighResOptions(budget=8, guided_by="random")
    maps = [
        vila_hd.ask(model, processor, pictures, "q", high_res=options, max_new_tokens=1).looks[-1].pass_maps
        for pictures in (PICTURES[:1], [PICTURES[2], PICTURES[0]])
    ]
    other = vila_hd.ask(model, processor, PICTURES[1:2], "q", high_res=options, max_new_tokens=1).looks[0]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))
    assert sum(int((entry > 0).sum()) for entry in maps[0]) == 8
    assert not torch.equal(maps[0][0], other.pass_maps[0][: maps[0][0].shape[0]])
