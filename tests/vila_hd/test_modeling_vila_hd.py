"""The model: saving, counting, batches, the two-step answer against two full passes, training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from vila_hd import HighResOptions, VilaHDConfig, VilaHDError, VilaHDForConditionalGeneration
from vila_hd.fusion import find_prompt_positions
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.ps3 import Regions
from vila_hd.testing import (
    TINY_TEXT_MODELS,
    tiny_config,
    tiny_model,
    tiny_picture,
    tiny_processor,
    user_message,
)

Messages = list[dict[str, Any]]


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def picture(seed: int, width: int = 96, height: int = 60) -> Image.Image:
    return tiny_picture(width, height, seed=seed)


CHATS: list[Messages] = [
    [user_message("two pictures", picture(0), picture(1, 60, 90))],
    [user_message("no picture, and a question that is longer than the others are by far")],
    [user_message("first", picture(2, 128, 128)), answer("yes"), user_message("and then?")],
]


def prepare(processor: VilaHDProcessor, chats: list[Messages], **options: Any) -> dict[str, Any]:
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
        **{"add_generation_prompt": True, **options},
    )
    return dict(inputs)


def training_batch(processor: VilaHDProcessor, chats: list[Messages]) -> dict[str, Any]:
    inputs = prepare(processor, chats, return_assistant_tokens_mask=True, add_generation_prompt=False)
    supervised = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    inputs["labels"] = inputs["input_ids"].masked_fill(~supervised, -100)
    return inputs


def drop_a_placeholder(input_ids: torch.Tensor) -> torch.Tensor:
    row, column = (input_ids == tiny_config().image_token_id).nonzero()[-1].tolist()
    return input_ids.index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(0))


@pytest.fixture(scope="module", params=TINY_TEXT_MODELS)
def any_model(request: pytest.FixtureRequest) -> VilaHDForConditionalGeneration:
    return tiny_model(tiny_config(request.param))


@pytest.fixture(scope="module")
def model() -> VilaHDForConditionalGeneration:
    return tiny_model()


@pytest.fixture(scope="module")
def processor() -> VilaHDProcessor:
    return tiny_processor()


OPTIONS = [
    HighResOptions(),
    HighResOptions(budget=0),
    HighResOptions(budget=3),
    HighResOptions(budget="all"),
    HighResOptions(budget=200, guided_by="saliency"),
    HighResOptions(budget=60, max_scale=64, smooth=True),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.budget}-{o.guided_by}-{o.max_scale}")
def test_batched_answers_equal_single_ones(
    any_model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, options: HighResOptions
) -> None:
    settings = {"high_res": options, "max_new_tokens": 5, "do_sample": False}
    together = any_model.generate(**prepare(processor, CHATS), **settings)[:, -5:]
    alone = [any_model.generate(**prepare(processor, [chat]), **settings)[0, -5:] for chat in CHATS]
    assert together.tolist() == [row.tolist() for row in alone]


@torch.no_grad()
def test_batched_logits_equal_single_ones(
    any_model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    together = any_model(**prepare(processor, CHATS)).logits
    for row, chat in enumerate(CHATS):
        alone = any_model(**prepare(processor, [chat])).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_two_step_prefill_equals_two_full_passes(
    any_model: VilaHDForConditionalGeneration, padding_side: str
) -> None:
    processor = tiny_processor()
    processor.tokenizer.padding_side = padding_side
    inputs = prepare(processor, CHATS)
    # forward() runs the language model twice over whole prompts and shares nothing.
    full = any_model(**inputs, high_res=HighResOptions(budget=100))
    inputs.pop("image_sizes")
    prefill = any_model.prefill(**inputs, high_res=HighResOptions(budget=100))
    assert prefill.reused > 0
    assert torch.equal(prefill.selection.index, full.looks.index)
    logits = any_model(
        prefill.input_ids[:, -1:],
        attention_mask=prefill.attention_mask,
        position_ids=prefill.attention_mask.sum(1, keepdim=True) - 1,
        past_key_values=prefill.cache,
    ).logits[:, 0]
    lengths = prefill.attention_mask.sum(1)
    expected = full.logits[torch.arange(len(CHATS)), lengths - 1]
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_sliding_windows_fall_back_to_a_full_second_pass(processor: VilaHDProcessor) -> None:
    text = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}
    model = tiny_model(tiny_config("qwen2", text=text))
    inputs = prepare(processor, CHATS[:1])
    full = model(**inputs).logits[:, -1]
    inputs.pop("image_sizes")
    prefill = model.prefill(**inputs)
    assert prefill.reused == 0
    logits = model(
        prefill.input_ids[:, -1:],
        attention_mask=prefill.attention_mask,
        position_ids=prefill.attention_mask.sum(1, keepdim=True) - 1,
        past_key_values=prefill.cache,
    ).logits[:, 0]
    torch.testing.assert_close(logits, full, atol=2e-4, rtol=1e-4)


def test_saved_and_loaded_model_is_equal(
    any_model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, tmp_path: Path
) -> None:
    any_model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    ours, theirs = any_model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in any_model.named_buffers())
    inputs = prepare(processor, CHATS)
    with torch.no_grad():
        assert torch.equal(any_model(**inputs).logits, loaded(**inputs).logits)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = tiny_model(tiny_config("llama", text={"tie_word_embeddings": True}))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = VilaHDForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_fresh_parameters_start_as_documented() -> None:
    with torch.device("meta"):
        model = VilaHDForConditionalGeneration(tiny_config())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights()
    projector = model.model.projector
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not projector.high_res_pos_embed.any()
    assert not any(table.any() for table in projector.high_res_scale_embed)
    assert 0 < projector.top_down_prompt_head.fc1.weight.abs().max() <= 0.02


@pytest.mark.parametrize(
    "projector_type", ["mlp_downsample", "mlp_downsample_3x3_fix", "mlp2x_gelu", "linear"]
)
@torch.no_grad()
def test_processor_counts_what_the_model_uses(projector_type: str) -> None:
    config = tiny_config(projector_type=projector_type)
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = prepare(processor, CHATS)
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    for options in OPTIONS:
        counted = processor.count_image_tokens(sizes, options)
        prefill = model.prefill(
            inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"], high_res=options
        )
        exact = options.budget in (0, "all")
        for used, count in zip(prefill.counts, counted, strict=True):
            assert used == count.high_res if exact else used <= count.high_res


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: {**x, "pixel_values": x["pixel_values"][:2]}, "expected 8 image tokens .* got 12"),
        (lambda x: {**x, "pixel_values": None}, "expected 0 image tokens .* got 12"),
        (lambda x: {**x, "input_ids": drop_a_placeholder(x["input_ids"])}, "row 2 has 3 image tokens"),
        (lambda x: {**x, "prompt_positions": torch.tensor([999, 0, 0])}, "prompt_positions=\\[999"),
        (lambda x: {**x, "look_index": torch.tensor([0])}, "1 entries of look_index"),
    ],
)
def test_counts_that_do_not_fit_are_named(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, change: Any, words: str
) -> None:
    with pytest.raises(VilaHDError, match=words):
        model(**change(prepare(processor, CHATS)))


def test_model_without_prompt_head_answers_by_saliency(processor: VilaHDProcessor) -> None:
    model = tiny_model(tiny_config(prompt_head=None, default_guide="saliency"))
    inputs = prepare(processor, CHATS)
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
    with pytest.raises(VilaHDError, match="guided_by='saliency'"):
        model.generate(**inputs, high_res=HighResOptions(budget=10))


@torch.no_grad()
def test_regions_in_pixels_of_the_original_picture(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = prepare(processor, [[user_message("there?", picture(0, 256, 256))]])
    corner = HighResOptions(budget=20, guided_by="regions", regions=(((0, 0, 64, 64),),))
    maps = model(**inputs, high_res=corner).looks.maps()[0]
    # A quarter of the side is 2 of 8 patches at the first scale and 4 of 16 at the second.
    assert maps[0][:2, :2].all()
    assert maps[1][:4, :4].all()
    outside = HighResOptions(budget=20, guided_by="regions", regions=(((0, 0, 257, 64),),))
    with pytest.raises(VilaHDError, match="256x256"):
        model(**inputs, high_res=outside)


def test_loss_does_not_depend_on_mode_or_padding(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    chats = [[*chat, answer(f"answer {i}")] for i, chat in enumerate(CHATS)]
    batch = training_batch(processor, chats)
    evaluated = model(**batch)
    trained = model.train()(**batch)
    model.eval()
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, evaluated.loss)
    supervised = int((batch["labels"] != -100).sum())
    assert int((evaluated.labels != -100).sum()) == supervised == len(trained.supervised_logits)
    parts = [model(**training_batch(processor, [chat]), num_items_in_batch=supervised).loss for chat in chats]
    torch.testing.assert_close(sum(parts), evaluated.loss, atol=1e-5, rtol=1e-5)


def test_batches_with_and_without_pictures_reach_the_same_parameters(processor: VilaHDProcessor) -> None:
    model = tiny_model().train()
    reached = []
    for chat in (CHATS[0], CHATS[1]):
        model.zero_grad()
        output = model(**training_batch(processor, [[*chat, answer("ok")]]), saliency=True)
        (output.loss + output.scores.sum() + output.saliency_scores.sum()).backward()
        reached.append({name for name, p in model.named_parameters() if p.grad is not None})
    assert reached[0] == reached[1]
    assert "model.projector.top_down_prompt_head.fc1.weight" in reached[0]
    assert "model.vision_tower.vision_model.prior_prompt" in reached[0]


def test_text_only_training_ignores_the_blank_picture(processor: VilaHDProcessor) -> None:
    model = tiny_model()
    batch = training_batch(processor, [[*CHATS[1], answer("ok")]])
    expected = model(**batch).loss
    output = model.train()(**batch)
    torch.testing.assert_close(output.loss, expected)
    assert output.scores.shape[0] == 0


@pytest.mark.parametrize("prompt_gradient", [False, True])
def test_gradients_of_the_scores_reach_the_language_model_only_on_request(
    processor: VilaHDProcessor, prompt_gradient: bool
) -> None:
    model = tiny_model().train()
    output = model(**prepare(processor, CHATS), scores_only=True, prompt_gradient=prompt_gradient)
    assert output.scores.shape == (3, 4, 4)
    output.scores.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("model.language_model.") for name in reached) == prompt_gradient
    assert any(name.startswith("model.projector.top_down_prompt_head.") for name in reached)


@torch.no_grad()
def test_samples_can_share_one_picture(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    chats = [[user_message("what?", picture(0))], [user_message("something else?", picture(0))]]
    inputs = prepare(processor, chats)
    expected = model(**inputs).logits
    inputs["pixel_values"] = inputs["pixel_values"][:1]
    shared = model(**inputs, look_index=torch.tensor([0, 0])).logits
    torch.testing.assert_close(shared, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_teacher_forced_regions_are_chosen_first(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = prepare(processor, [[user_message("what?", picture(0, 128, 128))]])
    forced = Regions.from_boxes([torch.tensor([[0.75, 0.75, 1.0, 1.0]])])
    maps = model(**inputs, regions=forced, high_res=HighResOptions(budget=20)).looks.maps()[0]
    assert maps[0][6:, 6:].all()
    assert maps[1][12:, 12:].all()


def test_gradient_checkpointing_gives_the_same_gradients(processor: VilaHDProcessor) -> None:
    batch = training_batch(processor, [[*CHATS[0], answer("ok")]])
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_bfloat16_trains_and_answers(processor: VilaHDProcessor) -> None:
    model = tiny_model().to(torch.bfloat16)
    output = model.train()(**training_batch(processor, [[*CHATS[0], answer("ok")]]))
    output.loss.backward()
    assert output.loss.isfinite()
    inputs = prepare(processor, CHATS)
    assert model.eval().generate(**inputs, max_new_tokens=2).shape[0] == 3


def test_default_budget_of_the_checkpoint_is_used(processor: VilaHDProcessor) -> None:
    config: VilaHDConfig = tiny_config(default_budget=24)
    inputs = prepare(processor, CHATS[:1])
    with torch.no_grad():
        assert tiny_model(config)(**inputs).looks.index.shape[1] == 24


@pytest.mark.parametrize("options", OPTIONS[:3], ids=lambda o: f"{o.budget}")
@torch.no_grad()
def test_packed_states_equal_padded_ones(
    any_model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, options: HighResOptions
) -> None:
    inputs = prepare(processor, CHATS)
    inputs.pop("image_sizes")
    padded = any_model.model(**inputs, high_res=options)
    packed = any_model.model(**inputs, high_res=options, packing=True)
    mask = padded.layout.mask
    assert torch.equal(packed.layout.mask, mask)
    torch.testing.assert_close(
        packed.last_hidden_state[mask], padded.last_hidden_state[mask], atol=2e-4, rtol=1e-4
    )
    assert not packed.last_hidden_state[~mask].any()
    if options.budget:
        torch.testing.assert_close(packed.visual.scores, padded.visual.scores, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_every_look_may_have_its_own_question(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = prepare(processor, CHATS)
    inputs.pop("image_sizes")
    options = HighResOptions(budget=40)
    last = model(**inputs, high_res=options)
    ends = find_prompt_positions(
        inputs["input_ids"], inputs["attention_mask"].bool(), model.config.prompt_end_ids
    )
    given = ends[[0, 0, 2]]
    same = model(**inputs, high_res=options, look_positions=given)
    torch.testing.assert_close(same.scores, last.scores)
    # The second picture of the first row is looked at with another word of the question in mind.
    other = model(**inputs, high_res=options, look_positions=given - torch.tensor([0, 3, 0]))
    torch.testing.assert_close(other.scores[[0, 2]], last.scores[[0, 2]])
    assert not torch.allclose(other.scores[1], last.scores[1])
    with pytest.raises(VilaHDError, match=r"look_positions=\[0, "):
        model(**inputs, high_res=options, look_positions=given * torch.tensor([0, 1, 1]))
    with pytest.raises(VilaHDError, match="one column per look"):
        model(**inputs, high_res=options, look_positions=given[:2])
