"""One test per oddity of the published VILA-HD that no other test shows; docs/compat.md lists them all.

Those of the tower are in ``test_ps3_quirks.py``, those of data and training beside the modules.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

import llava_compat.api as llava
import vila_hd
from llava_compat import load_checkpoint, save_checkpoint
from llava_compat.data import ReadOptions, read_mixture, read_registry, read_rows
from llava_compat.first_turn import first_turn_ends
from vila_hd import HighResOptions, VilaHDError
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor, user_message

SHORT = GenerationConfig(max_new_tokens=4)


def prepare(processor, *chats):
    """Inputs of chats, padded to the longest."""
    inputs = processor.apply_chat_template(
        [list(chat) for chat in chats],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True},
    )
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values") if name in inputs}


@pytest.fixture(scope="module")
def loaded(good_published):
    return load_checkpoint(good_published)


@pytest.fixture
def script(loaded):
    """The model as VILA scripts see it, with the settings of its folder."""
    return llava.VilaModel(*loaded)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_13_mended_projectors_without_downsampling_look_closely(tmp_path, kind):
    model = tiny_model(tiny_config(projector_type=kind))
    save_checkpoint(model, tiny_processor(model.config), tmp_path / "out", extensions=True)
    model, processor = load_checkpoint(tmp_path / "out")
    inputs = prepare(processor, [user_message("what?", tiny_picture())])
    assert model.prefill(**inputs, high_res=HighResOptions(budget=80)).counts == (80,)


@pytest.mark.parametrize("name", ["3x3", "3x3_s2", "3x3_s2_new"])
def test_14_projectors_that_never_ran_with_this_tower_are_refused(published, edit, name):
    edit(published / "mm_projector" / "config.json", mm_projector_type=f"mlp_downsample_{name}")
    with pytest.raises(VilaHDError, match=f"'mlp_downsample_{name}': use one of mlp_downsample,"):
        load_checkpoint(published)


@pytest.mark.parametrize("key", ["num_look_close", "num_token_look_close"])
def test_15_mended_no_high_resolution_look_by_the_config(published, edit, key):
    edit(published / "config.json", **{key: 0})
    model, processor = load_checkpoint(published)
    answer = vila_hd.ask(model, processor, [tiny_picture()], "what?", max_new_tokens=2)
    assert answer.looks[0].num_passes == 0
    script = llava.VilaModel(model, processor)
    prompt = [tiny_picture(), "what?"]
    assert script.generate_content(prompt, SHORT, return_selection_probs=True)[1:] == (None, None)


@pytest.mark.parametrize("mode", ["after_prompt", "after_image"])
def test_16_mended_texts_alone_are_answered(script, mode):
    script.look_close_mode = mode
    text, maps, probs = script.generate_content("Who is it?", SHORT, return_selection_probs=True)
    assert (maps, probs) == (None, None)
    processor = script.processor
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": "Who is it?"}], add_generation_prompt=True
    )
    ids = torch.tensor(processor.encode(prompt, add_special_tokens=False))
    new = script.generate(ids, media=None, generation_config=SHORT)
    assert processor.tokenizer.decode(new[0], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("guide", ["prompt", "saliency"])
def test_17_and_21_mended_prompts_are_answered_in_batches(loaded, guide):
    model, processor = loaded
    chats = [
        [user_message("two?", tiny_picture(seed=1), tiny_picture(60, 90, seed=2))],
        [user_message("no picture, and a question that is longer than the others")],
        [user_message("and this one?", tiny_picture(seed=3))],
    ]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "high_res": HighResOptions(guided_by=guide)}
    together = model.generate(**prepare(processor, *chats), **options)[:, -5:].tolist()
    options_of_text = {key: value for key, value in options.items() if key != "high_res"}
    alone = [
        model.generate(**inputs, **(options if "pixel_values" in inputs else options_of_text))[0, -5:]
        for inputs in (prepare(processor, chat) for chat in chats)
    ]
    assert together == [row.tolist() for row in alone]


def test_18_mended_grids_need_not_be_square(loaded):
    model, processor = loaded
    inputs = prepare(processor, [user_message("what?", tiny_picture())])
    tall = torch.from_numpy(np.array(tiny_picture(140, 280))).permute(2, 0, 1)
    prefill = model.prefill(
        inputs["input_ids"], inputs["attention_mask"], [tall], high_res=HighResOptions(budget="all")
    )
    assert prefill.selection.grids == (((10, 4), (20, 8)),)
    assert prefill.counts == (5 * 2 + 10 * 4,)


def test_20_mended_tokenizers_that_begin_every_text_with_a_token(good_published):
    processor = load_checkpoint(good_published)[1]
    expected, tokenizer = processor.find_prompt_end_ids(), processor.tokenizer
    first = tokenizer.convert_ids_to_tokens(401)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, 401)]
    )
    assert tokenizer("a")["input_ids"][0] == 401
    assert processor.find_prompt_end_ids() == expected


def test_20_mended_the_text_after_a_picture_may_be_several_tokens(published, edit):
    encoder = {"_target_": "llava.model.encoders.BasicImageEncoder", "end_tokens": "\nend of picture\n"}
    edit(published / "config.json", image_encoder=encoder)
    model, processor = load_checkpoint(published)
    assert len(processor.image_end_ids) > 2
    inputs = prepare(processor, [user_message("where is it?", tiny_picture(), tiny_picture(seed=1))])
    (end,) = first_turn_ends(inputs["input_ids"], inputs["attention_mask"], model.config.prompt_end_ids)
    assert processor.tokenizer.decode(inputs["input_ids"][0, end]) == "?"


def test_20_mended_without_an_end_the_last_token_counts_and_no_padding():
    ids, mask = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    assert first_turn_ends(ids, mask, [9, 9]).tolist() == [2]


def test_23_mended_short_videos_and_an_unknown_rate(published, edit, tmp_path):
    edit(published / "config.json", fps=None, num_video_frames=4)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        tiny_picture(60, 40, seed=number).save(frames / f"{number}.png")
    script = llava.load(published)
    maps = script.generate_content([llava.Video(frames), "what?"], SHORT, return_selection_probs=True)[1]
    assert [len(scale) for scale in maps] == [4, 4]


def test_27_mended_unknown_keys_of_the_config_are_kept(published, edit, tmp_path):
    keys = {"chat_template": "qwen2", "time_token_ids": [1, 2], "soft_ce_std": 0.5, "tune_vision_tower": True}
    edit(published / "config.json", **keys)
    save_checkpoint(*load_checkpoint(published), tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {key: written[key] for key in keys} == keys


def test_29_mended_revisions_of_hub_repositories(published, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"]))
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_checkpoint("owner/name", revision="v2")
    assert asked == [("owner/name", "v2")]


def write_rows(folder, **keys):
    """A file of one LLaVA row with two pictures beside it."""
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 50))):
        tiny_picture(*size).save(folder / name)
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A wall."}]
    (folder / "rows.json").write_text(json.dumps([{"id": "1", "conversations": turns} | keys]))
    return folder / "rows.json"


@pytest.mark.parametrize("target", ["LazyQAGroundingDataset", "LazyHighResQADataset"])
def test_34_mended_grounding_sets_are_read_from_a_registry(tmp_path, target):
    write_rows(tmp_path, image="a.png", box=[1, 2, 9, 8])
    entry = f"boxed:\n  _target_: llava.data.{target}\n  data_path: rows.json\n  media_dir: .\n"
    (tmp_path / "sets.yaml").write_text(entry)
    (row,) = read_mixture("boxed", read_registry(tmp_path / "sets.yaml"))
    assert [[tuple(box) for box in boxes] for boxes in row.boxes] == [[(1, 2, 9, 8)]]


def test_39_mended_pictures_under_images_have_their_sizes(tmp_path):
    turns = [{"from": "human", "value": "<image><image>\nWhich?"}, {"from": "gpt", "value": "The first."}]
    path = write_rows(tmp_path, images=["a.png", "b.png"], conversations=turns)
    (row,) = read_rows(path, ReadOptions(media=tmp_path, convention="legacy"))
    assert list(row.check_images()) == [(40, 30), (20, 50)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_35_the_first_resize_can_be_that_of_boxed_samples(good_published, interpolation):
    processor = load_checkpoint(good_published)[1]
    assert processor.image_processor.interpolation == "bicubic"
    processor.image_processor.interpolation = interpolation
    picture = tiny_picture(90, 140)
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    expected = torch.from_numpy(np.array(picture.resize((280, 280), method))).permute(2, 0, 1)
    pixels = processor([picture], "<image>", return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels, expected)
