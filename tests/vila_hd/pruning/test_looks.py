"""Pruned answers of the whole model: options, batches, cache, receipts, training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vila_hd import HighResOptions, VilaHDError, VilaHDForConditionalGeneration, ask
from vila_hd.options import Pruning
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor, user_message

WHOLE = HighResOptions(budget="all", guided_by="saliency")
METHODS = ("tome", "visionzip", "fastv")
CHATS = (
    [user_message("what is it?", tiny_picture(100, 60))],
    [user_message("which of these two?", tiny_picture(60, 128, seed=1), tiny_picture(128, 128, seed=2))],
    [user_message("no picture here")],
)


@pytest.fixture(scope="module")
def model() -> VilaHDForConditionalGeneration:
    return tiny_model(tiny_config(text={"num_hidden_layers": 3}))


@pytest.fixture(scope="module")
def processor() -> VilaHDProcessor:
    return tiny_processor()


def inputs_of(processor: VilaHDProcessor, *chats: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(
        processor.apply_chat_template(
            list(chats),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
    )


def options(spec: str | None, whole: HighResOptions = WHOLE) -> HighResOptions:
    return replace(whole, pruning=None if spec is None else Pruning.parse(spec))


def logits_of(
    model: VilaHDForConditionalGeneration, inputs: dict[str, Any], high_res: HighResOptions
) -> Tensor:
    """``(B, new, vocabulary)`` of four greedy steps."""
    output = model.generate(
        **inputs, high_res=high_res, max_new_tokens=4, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(output.logits, dim=1)


@pytest.mark.parametrize("budget", ["all", 0, 100])
@pytest.mark.parametrize("method", METHODS)
def test_keeping_everything_changes_nothing(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, method: str, budget: Any
) -> None:
    inputs, looks = inputs_of(processor, *CHATS), replace(WHOLE, budget=budget, guided_by="prompt")
    pruned = logits_of(model, inputs, options(f"{method}:1", looks))
    torch.testing.assert_close(pruned, logits_of(model, inputs, looks), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_answers_like_single_prompts(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, method: str
) -> None:
    looks = options(f"{method}:0.3")
    together = logits_of(model, inputs_of(processor, *CHATS), looks)
    for chat, row in zip(CHATS, together, strict=True):
        alone = logits_of(model, inputs_of(processor, chat), looks)
        torch.testing.assert_close(row, alone[0], atol=1e-4, rtol=1e-4)
    unpruned = logits_of(model, inputs_of(processor, *CHATS), WHOLE)
    assert not torch.allclose(together[:2], unpruned[:2], atol=1e-2)
    torch.testing.assert_close(together[2], unpruned[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_beams_of_a_batch_equal_those_of_single_prompts(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, method: str
) -> None:
    settings = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False, "high_res": options(f"{method}:0.3")}
    together = model.generate(**inputs_of(processor, *CHATS), **settings)[:, -4:]
    alone = [model.generate(**inputs_of(processor, chat), **settings)[:, -4:] for chat in CHATS]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("method", ["tome", "visionzip"])
def test_the_cache_gives_what_a_whole_pass_gives(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, method: str
) -> None:
    inputs, looks = inputs_of(processor, CHATS[1]), options(f"{method}:0.4")
    cached = logits_of(model, inputs, looks)[0]
    ids = model.generate(**inputs, high_res=looks, max_new_tokens=4, do_sample=False)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        whole = model(**inputs, high_res=looks).logits[0, -5:-1]
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.25, 0.01])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_of_every_picture_are_counted(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, method: str, keep: float
) -> None:
    pruning = Pruning(method=method, keep=keep, layer=1)
    looks = replace(WHOLE, pruning=pruning)
    pictures = [tiny_picture(60, 128), tiny_picture(128, 128)]
    full = ask(model, processor, pictures, "which?", high_res=WHOLE, max_new_tokens=2).receipt
    receipt = ask(model, processor, pictures, "which?", high_res=looks, max_new_tokens=2).receipt
    kept = [pruning.num_kept(look.visual_tokens) for look in full.looks]
    assert [look.visual_tokens for look in receipt.looks] == kept
    assert receipt.prompt_tokens == full.prompt_tokens
    counts = processor.count_image_tokens([(128, 60), (128, 128)], looks)
    in_context = [look.visual_tokens for look in full.looks] if method == "fastv" else kept
    assert [count.low_res + count.high_res for count in counts] == in_context


def test_a_look_whose_patches_fill_no_token_can_be_pruned(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = inputs_of(processor, CHATS[0])
    for method in METHODS:
        looks = options(f"{method}:0.5", replace(WHOLE, budget=1))
        prefill = model.prefill(inputs["input_ids"], None, inputs["pixel_values"], high_res=looks)
        assert prefill.low_counts[0] + prefill.counts[0] == 3  # of 4 and the stand-in


def test_a_picture_that_is_used_twice_is_pruned_twice(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    shown = tiny_picture(100, 60)
    inputs = inputs_of(processor, [user_message("first or second?", shown, shown)])
    given = inputs["input_ids"], None
    for method in METHODS:
        looks = options(f"{method}:0.4")
        twice = model.prefill(*given, inputs["pixel_values"], high_res=looks)
        once = model.prefill(
            *given, inputs["pixel_values"][:1], high_res=looks, look_index=torch.tensor([0, 0])
        )
        assert (once.low_counts, once.counts) == (twice.low_counts, twice.counts)
        for one, two in zip(once.cache.layers, twice.cache.layers, strict=True):
            torch.testing.assert_close(one.keys, two.keys)


def test_an_earlier_low_res_pass_is_used_only_where_it_is_enough(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    looks = options("visionzip:0.4")
    fresh = ask(model, processor, [tiny_picture(100, 60)], "what?", high_res=looks, max_new_tokens=1)
    first = ask(model, processor, [tiny_picture(100, 60)], "what?", high_res=WHOLE, max_new_tokens=1)
    second = ask(model, processor, [], "and now?", high_res=looks, history=first.history, max_new_tokens=4)
    assert second.looks[0].low_res_tokens == fresh.looks[0].low_res_tokens
    third = ask(model, processor, [], "and now?", high_res=looks, history=fresh.history, max_new_tokens=1)
    assert third.history.low_res is fresh.history.low_res


def test_a_checkpoint_can_prune_by_itself_and_a_call_can_forbid_it(processor: VilaHDProcessor) -> None:
    plain, pruning = tiny_model(), tiny_model(tiny_config(default_pruning="tome:0.3"))
    inputs = inputs_of(processor, CHATS[0])
    asked = logits_of(plain, inputs, options("tome:0.3"))
    torch.testing.assert_close(logits_of(pruning, inputs, WHOLE), asked)
    torch.testing.assert_close(
        logits_of(pruning, inputs, options("tome:1")), logits_of(plain, inputs, WHOLE), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(VilaHDError, match=r"pruning 'tome': use METHOD:KEEP"):
        tiny_config(default_pruning="tome")


@pytest.mark.parametrize("method", ["tome", "visionzip"])
def test_everything_learns_through_pruned_tokens(processor: VilaHDProcessor, method: str) -> None:
    model = tiny_model().train()
    inputs = inputs_of(processor, CHATS[1])
    output = model(**inputs, labels=inputs["input_ids"], high_res=options(f"{method}:0.4"))
    output.loss.backward()
    for part in (model.model.projector.layers, model.model.vision_tower.vision_model.trunk.patch_embed):
        assert all(bool(parameter.grad.any()) for parameter in part.parameters())


def test_fastv_is_refused_outside_of_generation(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    with pytest.raises(VilaHDError, match=r"fastv:0\.5: acts in generation only; use tome or visionzip"):
        model(**inputs_of(processor, CHATS[0]), high_res=options("fastv:0.5"))


def test_what_blocks_with_fewer_tokens_cannot_return_is_refused(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    settings = {"output_hidden_states": True, "return_dict_in_generate": True, "max_new_tokens": 2}
    with pytest.raises(
        VilaHDError, match=r"output_hidden_states: blocks hold different tokens with fastv:0\.5"
    ):
        model.generate(**inputs_of(processor, CHATS[0]), high_res=options("fastv:0.5"), **settings)


def test_visionzip_needs_a_block_before_the_projected_one(processor: VilaHDProcessor) -> None:
    model = tiny_model(tiny_config(select_layer=0))
    with pytest.raises(VilaHDError, match="there is no block before select_layer=0"):
        model.generate(**inputs_of(processor, CHATS[0]), high_res=options("visionzip:0.5"), max_new_tokens=1)
