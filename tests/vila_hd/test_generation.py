"""generate with transformers' own options, ask, stream, and the pipeline."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextStreamer, pipeline

from vila_hd import HighResOptions, VilaHDError, VilaHDForConditionalGeneration, ask, stream
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor, user_message


@pytest.fixture(scope="module")
def model() -> VilaHDForConditionalGeneration:
    return tiny_model()


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


CHATS = ([user_message("what is it?", tiny_picture(100, 60))], [user_message("no picture here")])


def test_output_is_the_prompt_and_new_ids(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = inputs_of(processor, *CHATS)
    output = model.generate(**inputs, max_new_tokens=4)
    assert torch.equal(output[:, :-4], inputs["input_ids"])


def test_lengths_count_the_caller_s_prompt(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = inputs_of(processor, *CHATS)
    columns = inputs["input_ids"].shape[1]
    assert model.generate(**inputs, max_length=columns + 3).shape[1] == columns + 3
    assert model.generate(**inputs, generation_config=GenerationConfig(max_length=columns + 2)).shape[1] == (
        columns + 2
    )
    with pytest.raises(VilaHDError, match=f"the prompt has {columns} tokens"):
        model.generate(**inputs, max_length=columns)


def test_beams_equal_beams_of_a_single_row(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    together = model.generate(**inputs_of(processor, *CHATS), **beams)[:, -4:]
    alone = [model.generate(**inputs_of(processor, chat), **beams)[:, -4:] for chat in CHATS]
    assert together.tolist() == torch.cat(alone).tolist()


def test_sampling_returns_scores_and_several_sequences(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 2}
    output = model.generate(
        **inputs_of(processor, *CHATS),
        **settings,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert output.sequences.shape[0] == 4
    assert len(output.scores) == 3


def test_repetition_penalty_does_not_depend_on_padding(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    # Placeholders fill up shorter rows, which penalises them; only random weights would write one.
    settings = {
        "repetition_penalty": 3.0,
        "max_new_tokens": 6,
        "do_sample": False,
        "suppress_tokens": [model.config.image_token_id],
    }
    together = model.generate(**inputs_of(processor, *CHATS), **settings)[:, -6:]
    alone = [model.generate(**inputs_of(processor, chat), **settings)[0, -6:] for chat in CHATS]
    assert together.tolist() == [row.tolist() for row in alone]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
    ],
)
def test_settings_that_do_not_go_with_pictures_are_refused(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(VilaHDError, match=words):
        model.generate(**inputs_of(processor, *CHATS), **settings, max_new_tokens=2)


def test_prompt_must_not_end_with_a_picture(model: VilaHDForConditionalGeneration) -> None:
    ids = torch.full((1, 4), model.config.image_token_id)
    with pytest.raises(VilaHDError, match="ends with a picture"):
        model.generate(ids, pixel_values=[torch.zeros(3, 64, 64, dtype=torch.uint8)])


def test_streamers_see_the_caller_s_prompt(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = inputs_of(processor, CHATS[0])
    output = model.generate(**inputs, streamer=TextStreamer(processor.tokenizer), max_new_tokens=5)
    assert capsys.readouterr().out.rstrip("\n") == processor.tokenizer.decode(output[0]).rstrip("\n")


def test_low_res_pass_can_be_used_again(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    inputs = inputs_of(processor, CHATS[0])
    inputs.pop("image_sizes")
    seen = model.prefill(**inputs).low_res
    again = model.generate(**inputs, low_res=seen, max_new_tokens=5)
    assert torch.equal(again, model.generate(**inputs, max_new_tokens=5))


def test_pipeline_answers_batches_with_and_without_pictures(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    outputs = pipe(
        text=list(CHATS),
        max_new_tokens=4,
        return_full_text=False,
        generate_kwargs={"high_res": HighResOptions(budget=40), "do_sample": False},
    )
    expected = ask(
        model, processor, [tiny_picture(100, 60)], "what is it?", high_res=HighResOptions(budget=40)
    )
    start = outputs[0][0]["generated_text"].strip()
    assert start
    assert expected.text.startswith(start)
    assert len(outputs) == 2


def test_ask_tells_what_was_looked_at(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    answer = ask(model, processor, [tiny_picture(200, 120)], "what?", max_new_tokens=5)
    (look,) = answer.looks
    assert (look.original_size, look.processed_size) == ((200, 120), (128, 77))
    assert look.grids == ((4, 8), (8, 16))
    assert sum(int((passes > 0).sum()) for passes in look.pass_maps) == 80
    assert look.low_res_tokens == 4
    assert answer.receipt.new_tokens <= 5
    assert set(answer.receipt.seconds) == {"read", "low_res", "choose", "high_res", "language"}


def test_conversation_goes_on(model: VilaHDForConditionalGeneration, processor: VilaHDProcessor) -> None:
    first = ask(model, processor, [tiny_picture(90, 90)], "what?", max_new_tokens=4)
    second = ask(model, processor, [], "and why?", max_new_tokens=4, history=first.history)
    assert second.history.low_res is first.history.low_res
    third = ask(model, processor, [tiny_picture(50, 90)], "here?", max_new_tokens=4, history=second.history)
    assert len(third.looks) == len(third.history.pictures) == 2
    assert [message["role"] for message in third.history.messages] == ["user", "assistant"] * 3
    # The same conversation in one go.
    messages = [*third.history.messages[:-1]]
    messages[0] = user_message("what?", tiny_picture(90, 90))
    messages[4] = user_message("here?", tiny_picture(50, 90))
    inputs = inputs_of(processor, messages)
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == third.text


def test_history_of_a_low_res_answer_is_looked_at_again(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    low = ask(
        model, processor, [tiny_picture()], "what?", max_new_tokens=2, high_res=HighResOptions(budget=0)
    )
    assert low.looks[0].high_res_tokens == 0
    close = ask(model, processor, [], "closer?", max_new_tokens=2, history=low.history)
    assert close.looks[0].high_res_tokens > 0


def test_regions_belong_to_the_new_pictures(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    first = ask(model, processor, [tiny_picture()], "what?", max_new_tokens=2)
    options = HighResOptions(budget=20, guided_by="regions", regions=(((0, 0, 32, 32),),))
    second = ask(
        model,
        processor,
        [tiny_picture(seed=1)],
        "here?",
        high_res=options,
        max_new_tokens=2,
        history=first.history,
    )
    assert (second.looks[1].pass_maps[0][:2, :2] > 0).all()
    with pytest.raises(VilaHDError, match="1 list\\(s\\) of regions for 2 picture"):
        ask(model, processor, [], "there?", high_res=options, history=second.history)


def test_padded_pictures_are_looked_at_in_their_square(model: VilaHDForConditionalGeneration) -> None:
    padding, plain = tiny_processor(), tiny_processor()
    padding.image_processor.resize_mode = "pad"
    picture = tiny_picture(120, 60)
    square = padding.image_processor.frame(picture)
    options = HighResOptions(budget=16, guided_by="regions", regions=(((30, 0, 60, 30),),))
    shifted = HighResOptions(budget=16, guided_by="regions", regions=(((30, 30, 60, 60),),))
    padded = ask(model, padding, [picture], "what?", high_res=options, max_new_tokens=4)
    expected = ask(model, plain, [square], "what?", high_res=shifted, max_new_tokens=4)
    assert padded.text == expected.text
    assert padded.looks[0].original_size == padded.history.pictures[0].size == (120, 120)
    for ours, theirs in zip(padded.looks[0].pass_maps, expected.looks[0].pass_maps, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_empty_question_is_refused(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, question: str
) -> None:
    with pytest.raises(VilaHDError, match="empty"):
        ask(model, processor, [], question)


def test_placeholder_in_a_question_is_refused(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    with pytest.raises(VilaHDError, match="do not write <image>"):
        ask(model, processor, [tiny_picture()], "what is <image>?")


def test_prompt_longer_than_the_context_is_refused(processor: VilaHDProcessor) -> None:
    from vila_hd.testing import tiny_config

    model = tiny_model(tiny_config(text={"max_position_embeddings": 50}))
    with pytest.raises(VilaHDError, match="the language model reads 50"):
        ask(model, processor, [tiny_picture()], "what?", high_res=HighResOptions(budget="all"))


def test_stream_yields_the_answer_in_pieces(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    *pieces, answer = stream(model, processor, [tiny_picture()], "what?", max_new_tokens=6)
    assert "".join(pieces).strip() == answer.text
    assert answer.text == ask(model, processor, [tiny_picture()], "what?", max_new_tokens=6).text


class Count(StoppingCriteria):
    steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        Count.steps += 1
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_leaving_a_stream_stops_the_model(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    pieces = stream(model, processor, [tiny_picture()], "what?", max_new_tokens=300)
    next(pieces)
    pieces.close()
    assert not any(thread.name == "vila-hd-answer" for thread in threading.enumerate())


def test_errors_of_a_stream_reach_the_caller(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    with pytest.raises(VilaHDError, match="max_new_tokens=0"):
        list(stream(model, processor, [], "what?", max_new_tokens=0))


def test_own_stopping_criteria_are_used(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor
) -> None:
    criteria = StoppingCriteriaList([Count()])
    model.generate(**inputs_of(processor, CHATS[0]), stopping_criteria=criteria, max_new_tokens=3)
    assert Count.steps == 3


def test_unreadable_picture_is_named(
    model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(VilaHDError, match=r"broken\.png"):
        ask(model, processor, [path], "what?")
