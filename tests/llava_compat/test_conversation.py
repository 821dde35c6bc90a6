"""Classic templates: rendered text and ids token by token, what is supervised, and the objects of scripts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_compat import conversation
from llava_compat.conversation import SeparatorStyle, chat_template, conv_templates, template_for_path
from llava_compat.tokenizer_files import find_stop_ids
from vila_hd import VilaHDError, VilaHDProcessor, add_pictures_to_template
from vila_hd.constants import IGNORE_INDEX, IMAGE_TOKEN
from vila_hd.supervision import ConversationEncoder
from vila_hd.testing import tiny_processor

GOLDEN = Path(__file__).parents[1] / "golden" / "conversation"
TEMPLATES: dict[str, Any] = json.loads((GOLDEN / "templates.json").read_text(encoding="utf-8"))
RECORDED: dict[str, Any] = json.loads((GOLDEN / "recorded.json").read_text(encoding="utf-8"))
NAMES = sorted(TEMPLATES["templates"])
SPECIAL = [
    *("<s>", "</s>", IMAGE_TOKEN, "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]
PIECE = r"\s|\w+|[^\w\s]"


def split(text: str) -> list[str]:
    """Tokens of a text: special ones, white space one by one, words, signs."""
    return re.findall("|".join(map(re.escape, SPECIAL)) + "|" + PIECE, text)


def unmark(marked: str) -> tuple[str, list[str], list[bool]]:
    """Text, tokens, and which of them lie inside of the guillemets."""
    tokens: list[str] = []
    learned: list[bool] = []
    for number, part in enumerate(re.split("[\u00ab\u00bb]", marked)):
        tokens += split(part)
        learned += [number % 2 == 1] * (len(tokens) - len(learned))
    return "".join(tokens), tokens, learned


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, sign and white space character of the golden texts."""
    texts = [entry[key] for entry in TEMPLATES["templates"].values() for key in ("chat", "with_system")]
    words = sorted({token for text in texts for token in unmark(text)[1]} | {"<unk>"} - set(SPECIAL))
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def make_processor(tokenizer: Any, template: str | None) -> VilaHDProcessor:
    """One placeholder per picture and nothing after it, so that ids can be compared one by one."""
    return VilaHDProcessor(
        tiny_processor().image_processor,
        tokenizer,
        low_res_tokens=1,
        scales=(32, 64, 128),
        patch_size=8,
        downsample=2,
        patches_per_pass=(16, 64),
        image_end_text="",
        chat_template=add_pictures_to_template(template or tokenizer.chat_template),
    )


@pytest.mark.parametrize("key", ["chat", "with_system"])
@pytest.mark.parametrize("name", NAMES)
def test_text_ids_and_labels_token_by_token(name: str, key: str) -> None:
    text, tokens, learned = unmark(TEMPLATES["templates"][name][key])
    tokenizer = word_tokenizer()
    system = [{"role": "system", "content": TEMPLATES["system"]}] if key == "with_system" else []
    encoded = ConversationEncoder(make_processor(tokenizer, chat_template(name)))(system + TEMPLATES["chat"])
    assert encoded.text == text
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == tokens
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert encoded.input_ids == ids
    assert tokenizer.unk_token_id not in ids
    assert encoded.labels == [i if flag else IGNORE_INDEX for i, flag in zip(ids, learned, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_generation_prompt(name: str) -> None:
    processor = make_processor(word_tokenizer(), chat_template(name))
    text = processor.apply_chat_template(TEMPLATES["chat"][:1], add_generation_prompt=True)
    assert text == TEMPLATES["templates"][name]["prompt"]


@pytest.mark.parametrize("name", NAMES)
def test_turns_end_with_the_stop_tokens(name: str) -> None:
    tokenizer = word_tokenizer()
    chat = [message for _ in range(10) for message in TEMPLATES["chat"][:2]]
    encoded = ConversationEncoder(make_processor(tokenizer, chat_template(name)))(chat)
    ends = [encoded.input_ids[turn.stop - 1] for turn in encoded.turns if turn.ended]
    assert list(dict.fromkeys(tokenizer.convert_ids_to_tokens(ends))) == TEMPLATES["templates"][name]["stops"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"plain"}))
def test_generation_stops_where_training_ends_turns(name: str) -> None:
    tokenizer = word_tokenizer()
    template = chat_template(name)
    assert template is not None
    stops = tokenizer.convert_ids_to_tokens(find_stop_ids(tokenizer, template))
    assert stops == list(dict.fromkeys(["</s>", *TEMPLATES["templates"][name]["stops"]]))


@pytest.mark.parametrize("name", sorted(set(conv_templates) - {"auto"}))
def test_scripts_get_the_text_of_the_chat_template(name: str) -> None:
    conv = conv_templates[name].copy()
    for text in ("What is shown?", "A red sign.", "Where?"):
        conv.append_message(conv.roles[len(conv.messages) % 2], text)
    conv.append_message(conv.roles[1], None)
    chat = [
        {"role": role, "content": text}
        for role, (_, text) in zip(("user", "assistant", "user"), conv.messages[:3], strict=True)
    ]
    processor = make_processor(word_tokenizer(), chat_template(name))
    expected = processor.apply_chat_template(chat, add_generation_prompt=True)
    # The tokenizer puts its own first token in front of what a script gives it.
    assert conv.get_prompt() == expected.removeprefix("<s>")
    conv.messages[-1][1] = "On the left."
    full = processor.apply_chat_template([*chat, {"role": "assistant", "content": "On the left."}])
    assert conv.get_prompt() == full.removeprefix("<s>")


def test_changes_of_a_copy_stay_in_the_copy_and_count() -> None:
    conv = conv_templates["vicuna_v1"].copy()
    conv.system, conv.sep2 = 'Say "{{ yes }}" \\ {% now %} \u2603', "<end>"
    conv.append_message(conv.roles[0], "a")
    conv.append_message(conv.roles[1], "b")
    assert conv.get_prompt() == conv.system + " USER: a ASSISTANT: b<end>"
    assert conv_templates["vicuna_v1"].messages == []
    processor = make_processor(word_tokenizer(), conv.chat_template())
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert processor.apply_chat_template(chat) == "<s>" + conv.get_prompt()


def test_v1_and_its_other_names_are_the_same() -> None:
    assert chat_template("v1") == chat_template("vicuna_v1")
    assert chat_template("llava_llama_3") == chat_template("llama_3")
    assert conv_templates["v1"].sep_style is SeparatorStyle.TWO
    assert conversation.default_conversation.sep_style is SeparatorStyle.AUTO


def test_auto_is_the_tokenizers_own() -> None:
    assert chat_template("auto") is None
    conv = conv_templates["auto"].copy()
    conv.append_message(conv.roles[0], "a")
    with pytest.raises(VilaHDError, match="'auto' is the tokenizer's own chat template"):
        conv.get_prompt()


def test_unknown_template() -> None:
    with pytest.raises(VilaHDError, match=r"template 'v2': use one of auto, hermes-2, .*vicuna_v1"):
        chat_template("v2")


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([("USER", "a"), ("USER", "b")], "message 1 is from 'USER': expected 'ASSISTANT'"),
        ([("ASSISTANT", "a")], "message 0 is from 'ASSISTANT': expected 'USER'"),
        ([("USER", None)], "message 0 has no text"),
        ([("USER", "a"), ("ASSISTANT", None), ("USER", "b")], "message 1 has no text"),
    ],
)
def test_turns_out_of_order_are_named(turns: list[tuple[str, str | None]], words: str) -> None:
    conv = conv_templates["v1"].copy()
    for turn in turns:
        conv.append_message(*turn)
    with pytest.raises(VilaHDError, match=words):
        conv.get_prompt()


@pytest.mark.parametrize("name", sorted(set(conv_templates) - {"auto"}))
def test_chats_out_of_order_are_refused(name: str) -> None:
    processor = make_processor(word_tokenizer(), chat_template(name))
    chat = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(VilaHDError, match="roles must alternate"):
        processor.apply_chat_template(chat)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Efficient-Large-Model/VILA1.5-3b", "vicuna_v1"),
        ("Efficient-Large-Model/Llama-3-VILA1.5-8B", "llama_3"),
        ("/models/vila1.5-13B-AWQ", "vicuna_v1"),
        ("VILA1.5-40b", "hermes-2"),
        ("NVILA15B", "vicuna_v1"),
        ("my/llama3-thing", "llama_3"),
        # The first rule that fits counts, whatever else the name holds.
        ("vila1.5-13b-llama-3", "vicuna_v1"),
        ("nvidia/VILA-HD-8B-PS3-4K-SigLIP", "auto"),
        ("", "auto"),
    ],
)
def test_template_of_a_path(path: str, name: str) -> None:
    assert template_for_path(path) == name


# ---------------------------------------------------------------- recorded outputs of the published code


def recorded_processor(model: str) -> VilaHDProcessor:
    folder = GOLDEN / "tokenizers" / RECORDED["models"][model]["tokenizer"]
    return make_processor(PreTrainedTokenizerFast.from_pretrained(folder), None)


def to_chat(turns: list[dict[str, str]], *, no_system: bool) -> list[dict[str, Any]]:
    """A recorded conversation as messages; values are stripped, as the published code does."""
    roles = {"human": "user", "gpt": "assistant"}
    chat: list[dict[str, Any]] = [{"role": "system", "content": ""}] if no_system else []
    for turn in turns:
        items: list[dict[str, str]] = []
        for number, text in enumerate(turn["value"].strip().split(IMAGE_TOKEN)):
            items += [{"type": "image"}] * (number > 0) + [{"type": "text", "text": text}] * bool(text)
        pictures = any(item["type"] == "image" for item in items)
        chat.append({"role": roles[turn["from"]], "content": items if pictures else turn["value"].strip()})
    return chat


LABELS = [
    pytest.param(model, item, id=f"{model}-{number}")
    for model, items in RECORDED["cases"]["labels"].items()
    for number, item in enumerate(items)
]


@pytest.mark.parametrize(("model", "item"), LABELS)
def test_published_ids_and_labels(model: str, item: dict[str, Any]) -> None:
    chat = to_chat(item["conversation"], no_system=item["no_system_prompt"])
    encoded = ConversationEncoder(recorded_processor(model), published=True)(chat)
    assert encoded.input_ids == item["input_ids"]
    assert encoded.labels == item["labels"]


@pytest.mark.parametrize(("model", "item"), LABELS)
def test_our_labels_differ_only_by_line_feeds_in_answers(model: str, item: dict[str, Any]) -> None:
    processor = recorded_processor(model)
    encoded = ConversationEncoder(processor)(
        to_chat(item["conversation"], no_system=item["no_system_prompt"])
    )
    answers = [turn["value"].strip() for turn in item["conversation"] if turn["from"] == "gpt"]
    if any("<|im_start|>" in answer for answer in answers):
        assert encoded.input_ids != item["input_ids"]  # written by a person, so characters and no token
        return
    assert encoded.input_ids == item["input_ids"]
    changed = [i for i, (x, y) in enumerate(zip(encoded.labels, item["labels"], strict=True)) if x != y]
    assert len(changed) == 2 * sum("\n" in answer for answer in answers)
    assert {processor.tokenizer.decode([encoded.input_ids[i]]) for i in changed} <= {"\n"}


@pytest.mark.parametrize("model", sorted(RECORDED["cases"]["tokenization"]))
def test_published_prompts_and_where_they_end(model: str) -> None:
    processor = recorded_processor(model)
    end_ids = RECORDED["models"][model]["user_prompt_end_ids"]
    assert processor.find_prompt_end_ids() == end_ids
    for prompt in RECORDED["cases"]["tokenization"][model]:
        value = prompt["value_after_media_extraction"]
        chat = to_chat([{"from": "human", "value": value}], no_system=False)
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        assert processor.encode(text, add_special_tokens=False) == prompt["input_ids"]
        answered = ConversationEncoder(processor)([*chat, {"role": "assistant", "content": "ok"}])
        assert answered.input_ids[: answered.turns[0].start] == prompt["input_ids"]
        assert answered.prompt_positions(end_ids) == [prompt["prompt_end_position"]]
