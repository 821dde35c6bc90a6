"""Models that see whole pictures, or are guided otherwise, are measured by the same commands."""

import json

import pytest

from eval.launch import main
from eval.subjects import ModelSpec
from vila_hd.testing import tiny_config, tiny_model, tiny_processor
from vila_hd.towers.choice import EncoderChoice


def save(folder, **changes):
    config = tiny_config(**changes)
    tiny_model(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


def run(folder, out, *more):
    argv = ["--model", str(folder), "--tasks", "choices", "--out", str(out), "--threads", "1", *more]
    status = main(argv)
    report = out / "report.json"
    return status, json.loads(report.read_text())["tables"][0]["rows"] if report.exists() else []


def test_a_model_that_sees_whole_pictures_needs_no_options(choices, tmp_path):
    folder = save(tmp_path / "model", encoder=EncoderChoice(kind="anyres", max_tiles=4))
    spec = ModelSpec(name=str(folder))
    assert (spec.default_guide(), spec.default_budgets()) == ("saliency", ("0", "auto"))
    status, (row,) = run(folder, tmp_path / "out", "--budget", "auto")
    assert status == 0
    assert (row["condition"], row["failed"]) == ("saliency-auto", 0)
    status, (low, all_of_it) = run(folder, tmp_path / "both", "--budget", "0", "all")
    assert (status, low["tokens"]) == (0, 4)
    assert all_of_it["tokens"] > 4


def test_a_model_is_guided_as_it_was_trained_unless_told_otherwise(choices, tmp_path):
    folder = save(tmp_path / "model", prompt_head=None, default_guide="random")
    status, (row,) = run(folder, tmp_path / "out", "--budget", "12")
    assert (status, row["condition"], row["failed"]) == (0, "random-12", 0)
    status, (row,) = run(folder, tmp_path / "told", "--budget", "12", "--guided-by", "saliency")
    assert (status, row["condition"]) == (0, "saliency-12")


@pytest.mark.parametrize("name", ["nano", "owner/name", "no/such/folder"])
def test_other_names_are_guided_by_the_question(name):
    spec = ModelSpec(name=name)
    assert spec.default_guide() == "prompt"
    assert {"0", "144", "auto"} < set(spec.default_budgets())
