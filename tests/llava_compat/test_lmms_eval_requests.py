"""Requests of lmms-eval -> messages, settings, how closely to look."""

import logging

import pytest
from PIL import Image

from llava_compat.lmms_eval_requests import read_chat, read_look_options, read_settings
from vila_hd import HighResOptions, VilaHDError

DEFAULTS = HighResOptions(budget=72, guided_by="saliency")


def settings_of(**gen_kwargs):
    return read_settings(gen_kwargs, DEFAULTS, max_new_tokens=64)


GREEDY = {"do_sample": False, "num_beams": 1}


def test_greedy_unless_the_task_says_otherwise():
    assert (settings_of().max_new_tokens, settings_of().generation) == (64, GREEDY)
    assert settings_of(temperature=0, top_p=None, num_beams=1).generation == GREEDY
    assert settings_of(do_sample=True, temperature=0, top_p=0.5).generation == GREEDY
    assert settings_of(do_sample=False, temperature=0.7, num_beams=3).generation == {**GREEDY, "num_beams": 3}


def test_sampling():
    settings = settings_of(temperature=0.2, top_p=0.9, max_new_tokens=5)
    assert settings.max_new_tokens == 5
    assert settings.generation == {"num_beams": 1, "do_sample": True, "temperature": 0.2, "top_p": 0.9}
    assert settings_of(do_sample=True, top_k=3).generation["top_k"] == 3


def test_looks_of_a_request_go_before_those_of_the_model():
    assert settings_of().high_res == DEFAULTS
    changed = settings_of(budget="all", guided_by="prompt", per_scale="4+16", max_scale=768, smooth=True)
    assert changed.high_res == HighResOptions(
        budget="all", guided_by="prompt", per_scale=(4, 16), max_scale=768, smooth=True
    )
    assert read_look_options({"per_scale": [4, 16], "budget": 0}, DEFAULTS).per_scale == (4, 16)
    assert read_look_options({"per_scale": 4}, DEFAULTS).per_scale == (4,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": "much"}, "budget='much'"),
        ({"budget": -1}, "budget=-1"),
        ({"budget": 1.5}, r"budget=1\.5"),
        ({"guided_by": "luck"}, "guided_by='luck'"),
        ({"guided_by": "regions"}, "no boxes; use 'prompt' or 'saliency'"),
        ({"per_scale": "4,16"}, r"per_scale='4,16': use whole numbers joined by '\+'"),
        ({"per_scale": "0+0"}, r"per_scale=\(0, 0\)"),
        ({"max_scale": "big"}, "max_scale='big'"),
        ({"smooth": "yes"}, "smooth='yes': use True or False"),
        ({"until": [3]}, r"until=\[3\]: use a text"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(VilaHDError, match=message):
        settings_of(**values)


def test_stop_texts():
    assert settings_of(until="\n\n").until == ("\n\n",)
    assert settings_of(until=["\n\n", "", "END"]).until == ("\n\n", "END")
    assert settings_of(until=None).until == ()
    kept = read_settings({"until": ["\n\n", "END", "\n"]}, DEFAULTS, max_new_tokens=1, keep_paragraphs=True)
    assert kept.until == ("END",)


def test_settings_for_other_models_are_left_out_and_named(caplog):
    with caplog.at_level(logging.WARNING, logger="llava_compat"):
        settings = settings_of(image_aspect_ratio="original")
    assert "image_aspect_ratio" not in settings.generation
    assert "image_aspect_ratio is not known here" in caplog.text


# ---------------------------------------------------------------- messages


def prompt_of(*messages, system_prompt=None):
    return read_chat(messages, system_prompt=system_prompt, num_frames=2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (6, 4), "red").save(path)
    return path


def test_texts_pictures_and_videos(file):
    prompt = prompt_of(
        {
            "role": "user",
            "content": [
                {"type": "image", "url": Image.new("L", (3, 2))},
                {"type": "text", "text": "and"},
                {"type": "image", "url": str(file)},
                {"type": "image", "url": file.read_bytes()},
                {"type": "video", "url": str(file.parent)},
                {"type": "text", "text": "what?"},
            ],
        },
        {"role": "assistant", "content": "a square"},
        {"role": "user", "content": "sure?"},
    )
    assert [message["role"] for message in prompt.messages] == ["user", "assistant", "user"]
    kinds = [item["type"] for item in prompt.messages[0]["content"]]
    assert kinds == ["image", "text", "image", "image", "image", "image", "text"]
    assert [picture.size for picture in prompt.pictures] == [(3, 2), *[(6, 4)] * 4]
    assert prompt.messages[2]["content"] == [{"type": "text", "text": "sure?"}]


def test_words_that_stand_for_pictures_are_taken_out():
    (message,) = prompt_of({"role": "user", "content": "<image> what is it?"}).messages
    assert message["content"] == [{"type": "text", "text": "what is it?"}]


def test_a_system_prompt_takes_the_place_of_the_chat_s_own():
    system = [{"type": "text", "text": "be brief"}]
    own = {"role": "system", "content": "be verbose"}
    user = {"role": "user", "content": "hello"}
    for messages in ([user], [own, user]):
        prompt = prompt_of(*messages, system_prompt="be brief")
        assert [message["role"] for message in prompt.messages] == ["system", "user"]
        assert prompt.messages[0]["content"] == system
    assert prompt_of(own, user).messages[0]["content"] == [{"type": "text", "text": "be verbose"}]


def test_what_cannot_be_read_is_refused():
    with pytest.raises(VilaHDError, match="content of type 'audio' is not read"):
        prompt_of({"role": "user", "content": [{"type": "audio", "url": "a.wav"}]})
    part = {"type": "video", "url": {"video": "a.mp4", "video_start": 3}}
    with pytest.raises(VilaHDError, match="only whole files and folders of frames are read"):
        prompt_of({"role": "user", "content": [part]})
    with pytest.raises(VilaHDError, match=r"/nowhere\.png: no such file"):
        prompt_of({"role": "user", "content": [{"type": "image", "url": "/nowhere.png"}]})
