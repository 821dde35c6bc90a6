import json

import pytest
import torch
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from eval.launch import main
from eval.store import read_predictions
from eval.transformers_chat import TransformersChat
from vila_hd.constants import IMAGE_TOKEN
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_picture, tiny_text_config, tiny_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}" + IMAGE_TOKEN + "{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS_PER_PICTURE = 16


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A tiny random LLaVA in a folder: a model that this project did not write."""
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = tiny_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8,
    )  # fmt: skip
    text = tiny_text_config("llama", vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token=IMAGE_TOKEN, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_it_answers_what_the_model_generates(llava):
    pictures = [tiny_picture(64, 64, seed=3)]
    reply = TransformersChat(str(llava)).ask(pictures, "what is it?", 5)
    processor = AutoProcessor.from_pretrained(llava)
    prompt = f"<|im_start|>user\n{IMAGE_TOKEN}what is it?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(images=pictures, text=prompt, return_tensors="pt")
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert reply.text == processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert reply.prompt_tokens == inputs["input_ids"].shape[1]
    assert reply.visual_tokens == TOKENS_PER_PICTURE


def test_it_depends_on_the_picture_and_takes_several(llava):
    chat = TransformersChat(str(llava))
    one, other = tiny_picture(64, 64, seed=3), tiny_picture(64, 64, seed=4)
    assert chat.ask([one], "what?", 8).text != chat.ask([other], "what?", 8).text
    assert chat.ask([one, other], "what?", 2).visual_tokens == 2 * TOKENS_PER_PICTURE


def test_the_runner_asks_it(llava, choices, tmp_path):
    choices.broken_pictures = {2}
    argv = ["--model", f"hf:{llava}", "--tasks", "choices", "--out", str(tmp_path), "--threads", "1"]
    assert main(argv) == 2  # an answer is missing
    settings, predictions = read_predictions(tmp_path / "choices.jsonl")
    assert settings["model"].startswith("hf:")
    assert len(predictions) == 6
    assert predictions["q0", "own"].visual_tokens == TOKENS_PER_PICTURE
    assert [uid for (uid, _), entry in predictions.items() if entry.error] == ["q2"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["facts"]["model"] == f"hf:{llava}"


@pytest.mark.parametrize("more", [["--budget", "12"], ["--guided-by", "random"], ["--per-scale", "1,2"]])
def test_options_of_ours_are_refused(more, llava, choices, tmp_path, capsys):
    assert main(["--model", f"hf:{llava}", "--tasks", "choices", "--out", str(tmp_path), *more]) == 2
    assert "is no VILA-HD model" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(VilaHDError, match="transformers cannot load it"):
        TransformersChat(str(tmp_path))


def test_a_model_without_template_is_refused(llava, tmp_path):
    for path in llava.iterdir():
        if "template" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(VilaHDError, match="no chat template"):
        TransformersChat(str(tmp_path))
