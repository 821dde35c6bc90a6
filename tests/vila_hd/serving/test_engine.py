"""Batches that rows join and leave give every row the answer that it gets alone."""

import contextlib
import hashlib
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

import vila_hd
from vila_hd import HighResOptions, VilaHDError
from vila_hd.options import Pruning
from vila_hd.serving.engine import ClosingError, Engine, EngineSettings, FullError, Observer
from vila_hd.serving.questions import Failed, Finished, Picture, Piece, Question, Sampling
from vila_hd.supervision import ConversationEncoder
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor
from vila_hd.towers.choice import EncoderChoice


class Counting(Observer):
    def __init__(self):
        self.reads, self.steps, self.ends = [], [], []

    def read(self, num_questions, seconds):
        self.reads.append(num_questions)

    def stepped(self, num_rows):
        self.steps.append(num_rows)

    def ended(self, job, event):
        self.ends.append(event)


@contextlib.contextmanager
def running(model, processor, **settings):
    observer = Counting()
    engine = Engine(model, processor, EngineSettings(**settings), observer)
    engine.observer = observer
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def prepared(processor, image):
    (pixels,) = processor.image_processor([image], return_tensors=None)["pixel_values"]
    return Picture(hashlib.sha256(image.tobytes()).digest(), pixels, image.size, image.size, (0, 0))


def question(processor, text, *pictures, look=None, **sampling):
    items = [{"type": "image"}] * len(pictures)
    turn = {"role": "user", "content": [*items, {"type": "text", "text": text}]}
    return Question(
        ConversationEncoder(processor).prompt([turn]),
        pictures,
        look or HighResOptions(),
        Sampling(**{"max_new_tokens": 8, **sampling}),
        explain=True,
    )


def answers(engine, questions):
    """Ask everything at once; ``(text, end)`` per question."""
    events = queue.Queue()
    texts, ends = [""] * len(questions), [None] * len(questions)
    with contextlib.ExitStack() as stack:
        for i, asked in enumerate(questions):
            job = stack.enter_context(engine.place())
            engine.submit(job, asked, lambda event, i=i: events.put((i, event)))
        while None in ends:
            i, event = events.get(timeout=60)
            if isinstance(event, Piece):
                texts[i] += event.text
            else:
                ends[i] = event
    return list(zip(texts, ends, strict=True))


LOOKS = [
    HighResOptions(),
    HighResOptions(budget=0),
    HighResOptions(budget=12),
    HighResOptions(budget=200),
    HighResOptions(guided_by="saliency"),
    HighResOptions(guided_by="regions", regions=(((5, 5, 40, 40),),), budget=30),
    HighResOptions(per_scale=(4, 10)),
    HighResOptions(max_scale=64, smooth=True),
]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_questions_with_different_options_share_a_batch(kind):
    config = tiny_config(kind)
    model, processor = tiny_model(config), tiny_processor(config)
    images = [tiny_picture(70 + 9 * i, 110 - 7 * i, seed=i) for i in range(len(LOOKS))]
    texts = ["what is it?" + " really?" * i for i in range(len(LOOKS))]
    asked = [
        question(processor, text, prepared(processor, image), look=look, max_new_tokens=3 + 2 * i)
        for i, (text, image, look) in enumerate(zip(texts, images, LOOKS, strict=True))
    ]
    asked.append(question(processor, "and without a picture?", max_new_tokens=6))
    with running(model, processor) as engine:
        got = answers(engine, asked)
        assert max(engine.observer.steps) > 4
    for i, (text, image, look) in enumerate(zip(texts, images, LOOKS, strict=True)):
        alone = vila_hd.ask(model, processor, [image], text, high_res=look, max_new_tokens=3 + 2 * i)
        said, end = got[i]
        assert said.strip() == alone.text
        assert end.receipt.looks == alone.receipt.looks
        assert (end.new_tokens, end.visual_tokens) == (alone.receipt.new_tokens, alone.receipt.visual_tokens)
        assert end.prompt_tokens == alone.receipt.prompt_tokens + alone.receipt.visual_tokens
        assert all(map(torch.equal, end.looks[0].pass_maps, alone.looks[0].pass_maps))
    assert (
        got[-1][0].strip()
        == vila_hd.ask(model, processor, [], "and without a picture?", max_new_tokens=6).text
    )


@pytest.mark.parametrize("kind", ["low_res", "anyres", "s2"])
def test_towers_that_see_whole_pictures(kind):
    config = tiny_config(encoder=EncoderChoice(kind=kind))
    model, processor = tiny_model(config), tiny_processor(config)
    model.generation_config.suppress_tokens = [config.image_token_id]  # as the engine does
    images = [tiny_picture(70 + 60 * i, 110, seed=i) for i in range(3)]
    looks = [HighResOptions(budget=0), HighResOptions(), HighResOptions(pruning=Pruning.parse("tome:0.5"))]
    asked = [
        question(processor, "what is it?", prepared(processor, image), look=look)
        for image, look in zip(images, looks, strict=True)
    ]
    with running(model, processor) as engine:
        got = answers(engine, asked)
    for (said, end), image, look in zip(got, images, looks, strict=True):
        alone = vila_hd.ask(model, processor, [image], "what is it?", high_res=look, max_new_tokens=8)
        assert said.strip() == alone.text
        assert end.receipt.looks == alone.receipt.looks


def test_rows_join_a_batch_that_runs(model, processor):
    events = queue.Queue()
    long = question(processor, "tell me everything", max_new_tokens=150)
    short = question(processor, "quick", prepared(processor, tiny_picture(seed=1)), max_new_tokens=4)
    with running(model, processor) as engine, engine.place() as first:
        engine.submit(first, long, events.put)
        events.get(timeout=60)
        ((said, end),) = answers(engine, [short])
        assert isinstance(end, Finished)
        assert not first.done
        assert 2 in engine.observer.steps
    alone = vila_hd.ask(model, processor, [tiny_picture(seed=1)], "quick", max_new_tokens=4)
    assert said.strip() == alone.text


def test_one_picture_is_looked_at_once(model, processor, monkeypatch):
    calls = []
    tower = model.model.vision_tower
    look = tower.encode_low_res
    monkeypatch.setattr(
        tower,
        "encode_low_res",
        lambda pictures, **options: calls.append(len(pictures)) or look(pictures, **options),
    )
    shown = prepared(processor, tiny_picture(seed=4))
    with running(model, processor) as engine:
        first = answers(engine, [question(processor, "what?", shown), question(processor, "where?", shown)])
        again = answers(engine, [question(processor, "what?", shown, shown)])
    assert calls == [1]
    assert len(first) == 2
    assert len(again[0][1].looks) == 2


def test_pictures_that_other_threads_looked_at_give_the_same_answers(model, processor, monkeypatch):
    images = [tiny_picture(70 + 20 * i, 110, seed=i) for i in range(6)]
    late, early = ([prepared(processor, image) for image in images] for _ in range(2))
    with running(model, processor) as engine:
        later = answers(engine, [question(processor, "what?", picture) for picture in late])
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(engine.look_ahead, early))
        assert all(picture.low_res is not None for picture in early)
        monkeypatch.setattr(model.model.vision_tower, "encode_low_res", None)  # not once more
        found = answers(engine, [question(processor, "what?", picture) for picture in early])
    assert [text for text, _ in found] == [text for text, _ in later]
    assert [end.receipt.looks for _, end in found] == [end.receipt.looks for _, end in later]


def test_a_look_ahead_that_fails_is_reported_with_the_answer(model, processor):
    broken = replace(prepared(processor, tiny_picture()), pixels=torch.zeros(1, 8, 8, dtype=torch.uint8))
    with running(model, processor) as engine:
        engine.look_ahead(broken)
        assert broken.low_res is None
        ((_, end),) = answers(engine, [question(processor, "what?", broken)])
        assert isinstance(end, Failed)


def test_a_question_that_cannot_be_answered_fails_alone(model, processor):
    good, bad = (question(processor, "what?", prepared(processor, tiny_picture(seed=i))) for i in (1, 2))
    bad = replace(bad, high_res=HighResOptions(per_scale=(1, 2, 3)))
    long = question(processor, "x" * 5000)
    with running(model, processor) as engine:
        (said, end), (_, failed), (_, _), (_, also) = answers(engine, [good, bad, long, good])
    assert said
    assert isinstance(end, Finished)
    assert isinstance(failed.error, VilaHDError)
    assert isinstance(also, Finished)


def test_too_many_questions_are_refused(model, processor):
    with running(model, processor, max_batch=1, max_waiting=1) as engine, engine.place(), engine.place():
        with pytest.raises(FullError, match="try again in 1 s") as caught, engine.place():
            pass
        assert caught.value.retry_after == 1


def test_an_answer_nobody_waits_for_ends(model, processor):
    events = queue.Queue()
    with running(model, processor) as engine:
        with engine.place() as job:
            engine.submit(job, question(processor, "go on", max_new_tokens=4000), events.put)
            events.get(timeout=60)
        answers(engine, [question(processor, "another", max_new_tokens=2)])
        assert job.done
        assert engine.num_inside == 0
        assert engine.observer.ends[0] is None
        # Whoever asks has the end of an answer a moment before its row is taken out.
        deadline = time.monotonic() + 60
        while engine.num_running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.num_running == 0


def test_closing_ends_what_runs_and_refuses_more(model, processor):
    events = queue.Queue()
    engine = Engine(model, processor)
    engine.start()
    with engine.place() as job:
        engine.submit(job, question(processor, "go on", max_new_tokens=4000), events.put)
        events.get(timeout=60)
        engine.close()
        assert job.done
        with pytest.raises(ClosingError, match="shutting down"):
            engine.submit(job, question(processor, "more"), events.put)
    with pytest.raises(ClosingError), engine.place():
        pass


@pytest.mark.parametrize(("part", "name"), [("_batch", "step"), ("_reader", "read")])
def test_a_bug_breaks_the_engine_loudly(model, processor, monkeypatch, part, name):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with running(model, processor) as engine:
        monkeypatch.setattr(getattr(engine, part), name, lambda *args: 1 / 0)
        ((_, end),) = answers(engine, [question(processor, "what?")])
        assert isinstance(end, Failed)
        assert isinstance(engine.broken, ZeroDivisionError)
        with pytest.raises(ClosingError, match="broke down"), engine.place():
            pass


def test_too_little_memory_ends_answers_but_not_the_engine(model, processor, monkeypatch):
    with running(model, processor) as engine:
        step = engine._batch.step
        monkeypatch.setattr(
            engine._batch, "step", lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("too much"))
        )
        ((_, end),) = answers(engine, [question(processor, "what?")])
        assert isinstance(end.error, torch.OutOfMemoryError)
        monkeypatch.setattr(engine._batch, "step", step)
        ((_, end),) = answers(engine, [question(processor, "what?")])
        assert isinstance(end, Finished)


def test_a_seed_means_the_same_in_company(model, processor):
    wanted = question(processor, "what?", temperature=1.5, seed=11, top_p=0.9)
    others = [question(processor, "other " * i, temperature=1.0, seed=i) for i in range(1, 5)]
    with running(model, processor) as engine:
        ((alone, _),) = answers(engine, [wanted])
        together = answers(engine, [*others, wanted])
    assert together[-1][0] == alone


def test_sliding_windows_wait_for_the_batch_before():
    text = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    config = tiny_config("qwen2", text=text)
    model, processor = tiny_model(config), tiny_processor(config)
    asked = [question(processor, f"what is number {i}?", max_new_tokens=3 + i) for i in range(3)]
    with running(model, processor, max_batch=2) as engine:
        got = answers(engine, asked)
    for i, (said, _) in enumerate(got):
        alone = vila_hd.ask(model, processor, [], f"what is number {i}?", max_new_tokens=3 + i)
        assert said.strip() == alone.text
