"""The API of VILA scripts: recorded answers of the published code, attributes, and clear errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from transformers import GenerationConfig

import llava_compat.api as llava
from llava_compat import conversation
from llava_compat.checkpoints import load_checkpoint
from llava_compat.look_attributes import LookAttributes
from llava_compat.look_settings import LookSettings
from vila_hd import VilaHDError
from vila_hd.testing import tiny_picture

QUESTION = "What is shown in the image?"


@pytest.fixture(scope="module")
def load_model(vila_goldens, tmp_path_factory) -> Callable[[str], llava.VilaModel]:
    loaded: dict[str, llava.VilaModel] = {}

    def load(name: str) -> llava.VilaModel:
        if name not in loaded:
            folder = vila_goldens.copy_model(name, tmp_path_factory.mktemp("api") / name)
            loaded[name] = llava.load(
                folder, budget_rounding="floor", num_attention_heads=vila_goldens.heads(name)
            )
        return loaded[name]

    return load


@pytest.fixture
def model(load_model):
    """A recorded model with the settings of its folder."""
    loaded = load_model("hd_2x2_prompt_mlp")
    settings = loaded.look_settings
    yield loaded
    loaded.look_settings = settings


def short(model: llava.VilaModel, tokens: int = 8) -> GenerationConfig:
    config = model.default_generation_config
    config.max_new_tokens = tokens
    return config


def picture(goldens, number: int = 0) -> llava.Image:
    return llava.Image(str(goldens.folder / f"images/img{number}.png"))


def set_as_scripts_do(model: llava.VilaModel, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        if name == "max_select_num_each_scale":
            model.get_vision_tower().vision_tower.vision_model.max_select_num_each_scale = value
        else:
            assert hasattr(model, name)
            setattr(model, name, value)


@pytest.mark.kinds("generate")
def test_recorded_answers(vila_case, vila_goldens, load_model):
    model = load_model(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    prompt = [
        llava.Image(str(vila_goldens.folder / part["image"])) if isinstance(part, dict) else part
        for part in vila_case["prompt_parts"]
    ]
    gt_map = None
    if vila_case["gt_selection_map"]:
        inputs = vila_goldens.case(f"{vila_case['model']}/encode_inputs")
        gt_map = vila_goldens.raw_tensors(inputs)["gt_selection_maps"][:1]
    settings = model.look_settings
    set_as_scripts_do(model, vila_case["set_attributes"])
    try:
        text, maps, probs = model.generate_content(
            prompt,
            generation_config=short(model, vila_case["max_new_tokens"]),
            return_selection_probs=True,
            gt_selection_map=gt_map,
        )
    finally:
        model.look_settings = settings
    assert text == vila_case["generated_text"]
    for scale, (chosen, prob) in enumerate(zip(maps, probs, strict=True)):
        assert torch.equal(chosen, recorded[f"selection_maps.{scale}"].to(chosen.dtype))
        torch.testing.assert_close(prob, recorded[f"selection_probs.{scale}"], atol=5e-6, rtol=0)


def test_ids_of_a_recorded_answer(vila_goldens, model):
    case = vila_goldens.case("hd_2x2_prompt_mlp/gen_two_images")
    recorded = vila_goldens.tensors(case)
    pictures = [PILImage.open(vila_goldens.folder / f"images/img{i}.png") for i in range(2)]
    pixels = model.vision_tower.image_processor(pictures, return_tensors="pt", do_normalize=True)
    new = model.generate(
        recorded["input_ids"],
        {"image": list(pixels["pixel_values"])},
        {"image": {}},
        generation_config=short(model, 16),
    )
    assert torch.equal(new, recorded["generated_ids"])


def test_a_call_can_ask_for_smooth_probabilities(vila_goldens, model):
    prompt = [picture(vila_goldens), QUESTION]
    given = model.generate_content(
        prompt, short(model, 1), return_selection_probs=True, smooth_selection_prob=True
    )
    model.smooth_selection_prob = True
    set_before = model.generate_content(prompt, short(model, 1), return_selection_probs=True)
    for one, other in zip(given[2], set_before[2], strict=True):
        assert torch.equal(one, other)
        assert len(one.unique()) <= 36


def test_texts_alone_are_answered(model):
    """Differs from the published code, which fails without a picture."""
    text = model.generate_content("What is the time?", short(model))
    assert isinstance(text, str)
    assert model.generate_content(["What is ", "the time?"], short(model)) == text
    assert model.generate_content("What is the time?", short(model), return_selection_probs=True) == (
        text,
        None,
        None,
    )


def test_no_high_resolution_look_chooses_nothing(vila_goldens, model):
    """Differs from the published code, which fails."""
    model.num_look_close = 0
    _, maps, probs = model.generate_content(
        [picture(vila_goldens), QUESTION], short(model), return_selection_probs=True
    )
    assert maps is None
    assert probs is None


def test_all_looks_at_every_patch(vila_goldens, model):
    model.num_look_close = "all"
    _, maps, _ = model.generate_content(
        [picture(vila_goldens), picture(vila_goldens, 1), QUESTION],
        short(model, 1),
        return_selection_probs=True,
    )
    assert [tuple(scale.shape) for scale in maps] == [(2, 10, 10), (2, 20, 20)]
    assert all(bool((scale == 1).all()) for scale in maps)


def test_the_number_of_patches_wins(vila_goldens, model):
    model.num_look_close, model.num_token_look_close = 2, 50
    _, maps, _ = model.generate_content(
        [picture(vila_goldens), QUESTION], short(model, 1), return_selection_probs=True
    )
    assert sum(int(scale.sum()) for scale in maps) == 50


def test_pictures_of_different_shapes_come_with_maps_of_their_own():
    model = llava.load("nano")
    model.num_token_look_close = 40
    wide = PILImage.new("RGB", (200, 100), "red")
    square = PILImage.new("RGB", (100, 100), "blue")
    _, maps, probs = model.generate_content(
        [wide, square, "what time of day is it?"], short(model, 1), return_selection_probs=True
    )
    for scale in (*maps, *probs):
        assert isinstance(scale, list)
        assert [entry.shape[0] / entry.shape[1] for entry in scale] == pytest.approx([0.5, 1.0], abs=0.1)
    assert sum(int(entry.sum()) for scale in maps for entry in scale) == 2 * 40


def test_a_map_may_come_without_the_dimension_of_pictures(vila_goldens, model):
    gt_map = torch.zeros(280, 280)
    gt_map[:28, :28] = 1
    answers = [
        model.generate_content(
            [picture(vila_goldens), QUESTION],
            short(model, 1),
            return_selection_probs=True,
            gt_selection_map=value,
        )
        for value in (gt_map, gt_map[None].numpy())
    ]
    for one, other in zip(*(answer[1] for answer in answers), strict=True):
        assert torch.equal(one, other)
    assert bool((answers[0][2][0][0, 0, 0] == 1).all())


# ---------------------------------------------------------------- attributes


def test_attributes_that_scripts_read(model):
    assert model.config.look_close_mode == model.look_close_mode == "after_prompt"
    assert (model.num_look_close, model.num_token_look_close) == (2, None)
    assert model.config.num_video_frames == 8
    assert model.tokenizer.media_token_ids == {"image": 406, "video": 407}
    assert model.tokenizer.stop_token_ids == [402]
    assert model.tokenizer.stop_tokens == ["<|im_end|>"]
    assert model.tokenizer.sentinel_token_id == 405
    assert model.get_llm().config.hidden_size == model.config.hidden_size
    assert model.get_mm_projector() is model.mm_projector
    assert model.get_top_down_prompt_head() is not None
    tower = model.get_vision_tower().vision_tower.vision_model
    assert tower.ps3_scales == [70, 140, 280]
    assert (tower.low_res_token_num, tower.num_patches, tower.patch_size) == (25, 400, 14)
    assert tower.max_select_num_each_scale == [20, 80]
    assert tower.hidden_size == model.config.mm_hidden_size
    assert model.eval().to("cpu").device.type == "cpu"
    assert model.dtype == torch.float32


def test_default_generation_config_is_the_recorded_one(vila_goldens, model):
    expected = vila_goldens.manifest["models"]["hd_2x2_prompt_mlp"]["default_generation_config"]
    config = model.default_generation_config
    assert {name: getattr(config, name) for name in expected} == expected
    config.max_length = 3
    assert model.default_generation_config.max_length == expected["max_length"]


def test_a_number_of_looks_replaces_the_checkpoint_s_number_of_patches():
    """Otherwise ``model.num_look_close = 2`` would do nothing to a model like nano, without a word."""
    attributes = LookAttributes()
    attributes.start_looks(LookSettings(num_token_look_close=288))
    assert attributes.num_token_look_close == 288
    attributes.num_look_close = 2
    assert (attributes.num_look_close, attributes.num_token_look_close) == (2, None)
    attributes.num_token_look_close = 40  # the script's own wins, in any order
    attributes.num_look_close = 3
    assert attributes.look_settings == LookSettings(num_look_close=3, num_token_look_close=40)
    attributes.look_settings = LookSettings(num_look_close=1, num_token_look_close=7)
    attributes.num_look_close = 2
    assert attributes.num_token_look_close == 7


def test_a_conversation_that_is_only_a_name_is_refused(model, monkeypatch):
    monkeypatch.setattr(model, "conversation", "vicuna_v1")
    with pytest.raises(VilaHDError, match="conversation 'vicuna_v1': use an entry of conv_templates"):
        model.generate_content("hello")


def test_a_generation_config_of_another_type_is_refused(model):
    with pytest.raises(VilaHDError, match=r"generation_config of type dict: use transformers\.Generation"):
        model.generate_content("hello", {"max_new_tokens": 3})


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("num_look_close", -1, "num_look_close=-1: use a whole number"),
        ("num_look_close", True, "num_look_close=True"),
        ("num_look_close", 1.5, r"num_look_close=1\.5"),
        ("num_token_look_close", "many", "num_token_look_close='many'"),
        ("look_close_mode", "after", "look_close_mode='after': use one of after_prompt, after_image"),
        ("smooth_selection_prob", "yes", "smooth_selection_prob='yes': use True or False"),
        ("max_select_num_each_scale", [1, 2, 3], r"\[1, 2, 3\] has 3 number\(s\): use 2"),
        ("max_select_num_each_scale", [0, 0], "not all zero"),
        ("max_select_num_each_scale", "20+80", "max_select_num_each_scale='20\\+80': use a list"),
        ("max_select_num_each_scale", [1.5, 2], "use a list of whole numbers"),
    ],
)
def test_attributes_are_checked_when_a_question_is_asked(vila_goldens, model, attribute, value, message):
    setattr(model, attribute, value)
    with pytest.raises(VilaHDError, match=message):
        model.generate_content([picture(vila_goldens), QUESTION])


def test_a_model_without_a_prompt_head_cannot_be_steered_by_the_question(load_model):
    model = load_model("hd_3x3_image")
    assert model.get_top_down_prompt_head() is None
    model.look_close_mode = "after_prompt"
    try:
        with pytest.raises(VilaHDError, match="no prompt head; use 'after_image'"):
            model.generate_content([tiny_picture(), QUESTION])
    finally:
        model.look_close_mode = "after_image"


def test_changing_how_pictures_are_read_is_refused(vila_goldens, model):
    model.config.image_aspect_ratio = "dynamic"
    try:
        with pytest.raises(VilaHDError, match=r"image_aspect_ratio='dynamic'.*as 'resize'"):
            model.generate_content([picture(vila_goldens), QUESTION])
    finally:
        model.config.image_aspect_ratio = "resize"


def test_settings_become_options():
    split = (20, 80)
    assert LookSettings().to_options(split).budget == 100
    assert LookSettings(num_look_close=None).to_options(split).budget == 100
    assert LookSettings(num_look_close=3, max_select_num_each_scale=[1, 2]).to_options(split).budget == 9
    assert LookSettings(num_token_look_close="all").to_options(split).budget == "all"
    assert LookSettings(look_close_mode="after_image").to_options(split).guided_by == "saliency"


# ---------------------------------------------------------------- calls that cannot work


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([" \n"], "empty"),
        ([3], "part 0 of the prompt is a int"),
        ({"text": "a"}, "prompt of type dict"),
        ([llava.Image("/nowhere/a.png"), "what?"], "/nowhere/a.png: no such file"),
        ([llava.Video("/nowhere/a.mp4"), "what?"], "/nowhere/a.mp4: no such video file"),
    ],
)
def test_prompts_that_are_none(model, prompt, message):
    with pytest.raises(VilaHDError, match=message):
        model.generate_content(prompt)


def test_a_map_must_fit_the_pictures(vila_goldens, model):
    for shape in [(2, 8, 8), (8,), (1, 0, 0)]:
        with pytest.raises(VilaHDError, match="for 1 picture"):
            model.generate_content([picture(vila_goldens), QUESTION], gt_selection_map=torch.zeros(shape))
    with pytest.raises(VilaHDError, match="for 0 picture"):
        model.generate_content(QUESTION, gt_selection_map=torch.zeros(1, 8, 8))
    with pytest.raises(VilaHDError, match="gt_selection_map of type str"):
        model.generate_content([picture(vila_goldens), QUESTION], gt_selection_map="all of it")


def test_sizes_must_fit_the_pictures(vila_goldens, model):
    with pytest.raises(VilaHDError, match=r"original_image_sizes: 2 for 1 picture"):
        model.generate_content([picture(vila_goldens), QUESTION], original_image_sizes=[(1, 1), (2, 2)])


def test_small_pictures_leave_the_largest_scale_out_where_the_checkpoint_says_so(
    vila_goldens, model, monkeypatch
):
    """As if the tower were a large one; the tokens of each picture follow its own size."""
    monkeypatch.setattr("llava_compat.dynamic_aspect.SMALL_TOWER", 100)
    model.num_look_close = 2
    prompt = [picture(vila_goldens), picture(vila_goldens, 1), QUESTION]

    def counts(sizes) -> list[list[int]]:
        answer = model.generate_content(
            prompt, short(model, 1), return_selection_probs=True, original_image_sizes=sizes
        )
        return [scale.flatten(1).sum(1).tolist() for scale in answer[1]]

    assert counts([(90, 100), (3000, 100)]) == [[40, 40], [160, 160]]
    monkeypatch.setattr(model.config, "ps3_dynamic_aspect_ratio", True)
    assert counts([(90, 100), (3000, 100)]) == [[100, 40], [0, 160]]
    assert counts([(90, 100), None]) == [[100, 40], [0, 160]]
    assert counts([(90, 100), (90, 100)]) == [[100, 100], [0, 0]]
    assert counts(None) == [[40, 40], [160, 160]]


def test_too_long_a_prompt_names_both_numbers(vila_goldens, model):
    config = model.default_generation_config
    config.max_length = 60
    with pytest.raises(VilaHDError, match=r"the prompt has 95 tokens.*max_length=60"):
        model.generate_content([picture(vila_goldens), QUESTION], config)


def test_lengths_count_the_visual_tokens(vila_goldens, model):
    config = model.default_generation_config
    config.max_length = 95 + 5
    model.num_look_close = 2
    text = model.generate_content([picture(vila_goldens), QUESTION], config)
    assert text == model.generate_content([picture(vila_goldens), QUESTION], short(model, 5))


def test_sampling_at_temperature_zero_is_greedy(model):
    config = GenerationConfig(do_sample=True, temperature=0.0, max_new_tokens=8)
    assert model.generate_content("Hello", config) == model.generate_content("Hello", short(model))


def test_generate_takes_one_prompt(model):
    with pytest.raises(VilaHDError, match="input_ids of 2 prompts"):
        model.generate(torch.zeros(2, 3, dtype=torch.long))


def test_devices(monkeypatch):
    with pytest.raises(VilaHDError, match=r"devices=\[0, 1\]: a model runs on one GPU"):
        llava.load("nano", devices=[0, 1])
    with pytest.raises(VilaHDError, match="give one of them"):
        llava.load("nano", devices=[0], device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(VilaHDError, match="device='cuda:0'"):
        llava.load("nano", devices=[0])


# ---------------------------------------------------------------- templates


@pytest.fixture
def assigned():
    """Assigns ``conversation.default_conversation`` for one test."""
    before = conversation.default_conversation

    def assign(name: str) -> None:
        conversation.default_conversation = conversation.conv_templates[name].copy()

    yield assign
    conversation.default_conversation = before


def prompts_of(model: llava.VilaModel, monkeypatch) -> str:
    """The text that a question becomes."""
    seen: list[str] = []
    encode = type(model.processor).encode

    def spy(self, text, **kwargs):
        seen.append(text)
        return encode(self, text, **kwargs)

    monkeypatch.setattr(type(model.processor), "encode", spy)
    model.generate_content("Who?", short(model, 1))
    monkeypatch.undo()
    return seen[-1]


def test_the_template_that_a_script_assigns_is_used(model, assigned, monkeypatch):
    assert "<|im_start|>user\nWho?" in prompts_of(model, monkeypatch)
    assigned("vicuna_v1")
    assert prompts_of(model, monkeypatch).endswith("USER: Who? ASSISTANT:")
    assigned("auto")
    assert "<|im_start|>user\nWho?" in prompts_of(model, monkeypatch)


def test_each_model_may_have_a_template(model, monkeypatch):
    model.conversation = conversation.conv_templates["llama_3"].copy()
    try:
        assert "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>" in prompts_of(model, monkeypatch)
    finally:
        model.conversation = conversation.conv_templates["auto"].copy()


def test_old_models_get_their_template_by_name(good_published, tmp_path):
    renamed = tmp_path / "vila1.5-8b"
    renamed.symlink_to(good_published)
    assert llava.load(renamed).conversation.version == "llama_3"
    assert llava.load(good_published).conversation.version == "auto"


def test_a_classic_template_reads_the_question_where_it_ends(vila_goldens, model, assigned):
    """Its own answer header is looked for, not the checkpoint's."""
    seen: list[torch.Tensor] = []
    prefill = type(model.model).prefill

    def spy(self, *args, **kwargs):
        seen.append(kwargs["prompt_positions"])
        return prefill(self, *args, **kwargs)

    assigned("hermes-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.model), "prefill", spy)
        model.generate_content([picture(vila_goldens), "Who?"], short(model, 1))
    processor = model._reading().processor
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who?"}]}],
        add_generation_prompt=True,
    )
    ids = processor.encode(text, add_special_tokens=False)
    end = len(processor.encode(text[: text.index("Who?") + 4], add_special_tokens=False))
    assert seen[0].tolist() == [end - 1]
    assert end < len(ids)


# ---------------------------------------------------------------- LoRA folders


def test_lora_weights_need_their_base(good_published):
    with pytest.raises(VilaHDError, match="base"):
        llava.load(good_published, model_base=good_published)


def test_loaded_models_are_those_of_load_checkpoint(good_published):
    ours, _ = load_checkpoint(good_published)
    theirs = llava.load(good_published).model
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(one, other), name
