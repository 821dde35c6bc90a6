"""lmms-eval itself finds the adapter, runs tasks with it, and leaves results.

It has an environment of its own: ``make test-lmms-eval`` makes that and runs these tests there.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

import vila_hd
from vila_hd import HighResOptions
from vila_hd.scenes import SceneConfig, make_scene, render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="needs lmms-eval: make test-lmms-eval"),
]

QUESTIONS = ("what time of day is it?", "count the blue signs.", "where is the town?")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function shown.doc_to_visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 6
  temperature: 0
  budget: {budget}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

SHOWN = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(name).convert("RGB") for name in doc["images"]]
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> dict[int, list[dict[str, object]]]:
    """Documents with what ``ask`` answers to them, per budget: none, one and two pictures of two shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    names = []
    for seed, size in enumerate([(1280, 720), (960, 960)]):
        names.append(str(folder / f"{seed}.png"))
        Image.fromarray(render(make_scene(seed, SceneConfig(size=size, num_objects=3)))).save(names[-1])
    model, processor = vila_hd.load("nano", device="cpu")
    documents: dict[int, list[dict[str, object]]] = {}
    for budget in (0, 200):
        documents[budget] = []
        for number, images in enumerate([[names[0]], [names[1]], [names[1], names[0]], []]):
            question = QUESTIONS[number % len(QUESTIONS)]
            options = HighResOptions(budget=budget)
            answer = vila_hd.ask(model, processor, images, question, high_res=options, max_new_tokens=6).text
            documents[budget].append({"images": images, "question": question, "answer": answer})
    return documents


def write_task(folder: Path, name: str, budget: int, documents: list[dict[str, object]]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, budget=budget), encoding="utf-8")
    (folder / "shown.py").write_text(SHOWN, encoding="utf-8")


def run_cli(folder: Path, *arguments: str) -> tuple[str, list[Path]]:
    """What ``lmms-eval`` prints, and the files of results that it leaves."""
    command = [
        str(Path(sys.executable).with_name("lmms-eval")),
        *("--model", "vila_hd", "--include_path", str(folder), "--output_path", str(folder / "out")),
        *("--device", "cpu", "--log_samples", *arguments),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr, sorted((folder / "out").rglob("*_results.json"))


def test_the_entry_point_is_found_and_builds_the_class():
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    assert "vila_hd" in entry_points(group="lmms_eval.models").names, "install vila-hd next to lmms-eval"
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.resolve("vila_hd").model_type == "chat"
    found = registry.get_model_class("vila_hd")
    assert issubclass(found, lmms)
    assert not found.__abstractmethods__
    model = found.create_from_arg_string(
        "pretrained=nano,budget=40,per_scale=4+16,smooth=True,dtype=float32",
        {"batch_size": "2", "max_batch_size": None, "device": "cpu"},
    )
    assert (model.batch_size, model.rank, model.world_size) == (2, 0, 1)
    assert model.look == HighResOptions(
        budget=40, per_scale=(4, 16), smooth=True, guided_by=model.config.default_guide
    )
    model.clean()
    assert not hasattr(model, "model")


def test_tasks_with_their_own_budgets_leave_the_answers_of_ask(answered, tmp_path):
    assert [d["answer"] for d in answered[0]] != [d["answer"] for d in answered[200]]
    close = [*answered[200][:3], {**answered[200][3], "answer": "something else"}]
    write_task(tmp_path, "signs_low", 0, answered[0])
    write_task(tmp_path, "signs_close", 200, close)
    output, results = run_cli(
        tmp_path, "--tasks", "signs_low,signs_close", "--model_args", "pretrained=nano", "--batch_size", "3"
    )
    assert len(results) == 1, output  # it exits with 0 on failure
    scores = json.loads(results[0].read_text(encoding="utf-8"))["results"]
    assert scores["signs_low"]["exact_match,none"] == 1.0
    assert scores["signs_close"]["exact_match,none"] == 0.75
    (samples,) = (tmp_path / "out").rglob("*_samples_signs_close.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    found = {row["doc_id"]: row["filtered_resps"] for row in rows}
    assert [found[number] for number in range(4)] == [document["answer"] for document in answered[200]]


def test_a_failure_names_the_document_and_leaves_no_results(answered, tmp_path):
    write_task(tmp_path, "signs_long", 0, [answered[0][0], {**answered[0][3], "question": "why? " * 5000}])
    output, results = run_cli(tmp_path, "--tasks", "signs_long", "--model_args", "pretrained=nano")
    assert results == []
    assert "task signs_long, split test, document 1: the prompt has" in output
