"""The adapter for lmms-eval, without lmms-eval: see test_lmms_eval_manifest.py for the rest."""

import ast
import functools
import inspect
import re
import sys
from pathlib import Path

import pytest

import vila_hd
from llava_compat import lmms_eval_model
from llava_compat.lmms_eval_model import Adapter
from llava_compat.lmms_eval_requests import KNOWN
from vila_hd import HighResOptions, VilaHDError
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

ROOT = Path(__file__).resolve().parents[2]
TASK, SPLIT = "signs", "test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, saved."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def documents():
    """Questions about no picture, one, and two of another shape."""
    questions = ["what time of day is it?", "count the blue signs.", "where is the town?"]
    wide, tall = tiny_picture(160, 90), tiny_picture(60, 120, seed=1)
    shown = [[], [wide], [tall], [tall, wide], [], [wide]]
    return [{"images": images, "question": questions[number % 3]} for number, images in enumerate(shown)]


def doc_to_messages(document):
    items = [{"type": "image", "url": picture} for picture in document["images"]]
    return [{"role": "user", "content": [*items, {"type": "text", "text": document["question"]}]}]


def requests_of(documents, *gen_kwargs):
    """One request per document, with the given settings in turn."""
    settings = gen_kwargs or ({},)
    return [
        ("", doc_to_messages, dict(settings[number % len(settings)]), number, TASK, SPLIT)
        for number in range(len(documents))
    ]


@pytest.fixture(scope="module")
def make_adapter(documents, folder):
    def make(**arguments):
        adapter = Adapter(folder, **{"device": "cpu", "max_new_tokens": 6, **arguments})
        adapter.task_dict = {TASK: {SPLIT: documents}}
        return adapter

    return make


@pytest.fixture(scope="module")
def adapter(make_adapter):
    return make_adapter(batch_size=4)


@pytest.fixture(scope="module")
def one_by_one(documents, folder):
    """What ``ask`` answers, without batches."""
    model, processor = vila_hd.load(folder, device="cpu")

    @functools.cache
    def ask(budget) -> list[tuple[str, int]]:
        answers = [
            vila_hd.ask(
                model,
                processor,
                document["images"],
                document["question"],
                high_res=HighResOptions(budget=budget),
                max_new_tokens=6,
            )
            for document in documents
        ]
        return [(answer.text, answer.receipt.new_tokens) for answer in answers]

    return ask


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_batches_answer_as_single_questions_do(make_adapter, documents, one_by_one, batch_size):
    found = make_adapter(batch_size=batch_size).answer_requests(requests_of(documents, {"budget": 40}))
    assert [(text, new) for text, _, new in found] == one_by_one(40)


def test_every_request_may_look_as_closely_as_it_wants(adapter, documents, one_by_one):
    found = adapter.answer_requests(requests_of(documents, {"budget": 0}, {"budget": 200}))
    expected = [one_by_one(0)[i] if i % 2 == 0 else one_by_one(200)[i] for i in range(len(documents))]
    assert [(text, new) for text, _, new in found] == expected
    lowest = [prompt for _, prompt, _ in adapter.answer_requests(requests_of(documents, {"budget": 0}))]
    for number, (_, prompt, _) in enumerate(found):
        closer = number % 2 == 1 and documents[number]["images"]
        assert prompt > lowest[number] if closer else prompt == lowest[number]


def test_model_arguments_are_defaults(make_adapter, documents, one_by_one):
    adapter = make_adapter(budget=0, batch_size=6)
    found = adapter.answer_requests(requests_of(documents, {}, {"budget": 40}))
    expected = [one_by_one(0)[i] if i % 2 == 0 else one_by_one(40)[i] for i in range(len(documents))]
    assert [(text, new) for text, _, new in found] == expected
    assert adapter.look.guided_by == adapter.config.default_guide


def test_answers_end_at_stop_texts(adapter, documents):
    whole = adapter.answer_requests(requests_of(documents, {"budget": 0, "max_new_tokens": 6}))
    letter = next(c for text, _, _ in whole for c in text[1:] if c.isascii() and c.isalnum())
    cut = adapter.answer_requests(
        requests_of(documents, {"budget": 0, "max_new_tokens": 6, "until": [letter]})
    )
    for (long, _, num_long), (short, _, num_short) in zip(whole, cut, strict=True):
        assert short == long.split(letter)[0].strip()
        assert num_short <= num_long
    assert cut != whole


def test_sampling_is_possible(adapter, documents):
    settings = {"budget": 0, "do_sample": True, "temperature": 5.0, "top_p": 1.0, "max_new_tokens": 12}
    texts = {adapter.answer_requests(requests_of(documents[:1], settings))[0][0] for _ in range(4)}
    assert len(texts) > 1


def test_a_system_prompt_reaches_the_model(make_adapter, documents, tmp_path):
    plain = make_adapter(batch_size=1).answer_requests(requests_of(documents[:1]))
    file = tmp_path / "system.txt"
    file.write_text("look at the sign.\n")
    for prompt in ("look at the sign.", str(file)):
        found = make_adapter(system_prompt=prompt).answer_requests(requests_of(documents[:1]))
        assert found[0][1] > plain[0][1]


def test_several_processes_use_their_own_gpus(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(lmms_eval_model.torch.cuda, "is_available", lambda: True)
    assert lmms_eval_model._device_of_process("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert lmms_eval_model._device_of_process("cuda") == "cuda:3"
    assert lmms_eval_model._device_of_process(None) == "cuda:3"
    assert lmms_eval_model._device_of_process("cpu") == "cpu"


@pytest.mark.parametrize("size", ["auto", 0, "-1", 1.5])
def test_batch_sizes_that_are_none(size):
    with pytest.raises(VilaHDError, match=r"batch_size=.*: use a whole number >= 1"):
        Adapter(batch_size=size)


def test_requests_of_another_kind_are_refused(adapter, documents):
    with pytest.raises(VilaHDError, match="a request of 5 fields: chat requests have 6"):
        adapter.answer_requests([request[:5] for request in requests_of(documents)])


def broken_requests(documents, number, settings, messages):
    """Requests whose document ``number`` is shown as ``messages``."""
    requests = requests_of(documents, settings)
    context, _, kwargs, *rest = requests[number]
    requests[number] = (context, lambda _: messages, kwargs, *rest)
    return requests


@pytest.mark.parametrize(
    ("settings", "messages", "message"),
    [
        ({"budget": 40}, [{"role": "user", "content": "long " * 9000}], r"the prompt has \d+ tokens, 0 of"),
        ({}, [{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], "type 'audio'"),
        ({}, [{"role": "user", "content": [{"type": "image", "url": "/nowhere.png"}]}], r"/nowhere\.png"),
    ],
)
def test_a_failing_request_names_its_document(adapter, documents, settings, messages, message):
    """lmms-eval prints the message and goes on to exit with 0, so it has to say all there is to say."""
    with pytest.raises(VilaHDError, match=f"^task {TASK}, split {SPLIT}, document 2: .*{message}"):
        adapter.answer_requests(broken_requests(documents, 2, settings, messages))


def test_a_setting_without_meaning_names_its_document(adapter, documents):
    requests = requests_of(documents[:2], {}, {"budget": "much"})
    with pytest.raises(VilaHDError, match=f"^task {TASK}, split {SPLIT}, document 1: budget='much'"):
        adapter.answer_requests(requests)


def test_other_errors_tell_the_documents_too(adapter, documents, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(lmms_eval_model, "answer_batch", fail)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        adapter.answer_requests(requests_of(documents[:2]))
    assert caught.value.__notes__ == [
        f"while answering task {TASK}, split {SPLIT}, document 0; task {TASK}, split {SPLIT}, document 1"
    ]


def test_what_is_not_supported_says_so(adapter):
    with pytest.raises(NotImplementedError, match="generate_until, not loglikelihood"):
        adapter.loglikelihood([])
    with pytest.raises(NotImplementedError, match="not generate_until_multi_round"):
        adapter.generate_until_multi_round([])


def test_a_missing_lmms_eval_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", None)
    lmms_eval_model._adapter.cache_clear()
    with pytest.raises(
        VilaHDError, match=r"lmms_eval.* \(needed for lmms-eval --model vila_hd\).*\[lmms-eval\]"
    ):
        lmms_eval_model.VilaHD  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        lmms_eval_model.Other  # noqa: B018


def test_setup_registers_the_manifest():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    points = next(
        ast.literal_eval(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "entry_points"
    )
    assert points["lmms_eval.models"] == ["vila_hd = llava_compat.lmms_eval_manifest:manifests"]


def documented(title: str) -> set[str]:
    """Names in the first column of the table below a title of docs/lmms-eval.md."""
    text = (ROOT / "docs" / "lmms-eval.md").read_text(encoding="utf-8")
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_documented_settings_are_those_that_are_read():
    arguments = set(inspect.signature(Adapter.__init__).parameters) - {"self"}
    assert documented("`--model_args`") == arguments
    assert documented("Per-request options") == KNOWN
