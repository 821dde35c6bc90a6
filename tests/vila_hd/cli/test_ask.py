"""``vila-hd ask`` on a tiny random model: answers, receipts, lenses - and every damaged folder refused."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from vila_hd import cli


def ask(*words):
    return cli.main(["ask", *map(str, words)])


def refused(capsys, *words):
    """The one line on stderr of a question that must be refused."""
    assert ask(*words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1, output.err
    return output.err


def answered(capsys, *words):
    """The JSON of an answer."""
    status = ask(*words, "--json", "--max-new-tokens", 4)
    output = capsys.readouterr()
    assert status == 0, output.err
    return json.loads(output.out)


def patches(answer):
    return [sum(scale["chosen"] for scale in look["scales"]) for look in answer["receipt"]["looks"]]


def test_the_answer_is_on_stdout_and_the_receipt_on_stderr(capsys, good_folder, picture):
    assert ask(picture, "what is it?", "--model", good_folder, "--max-new-tokens", 4) == 0
    output = capsys.readouterr()
    assert "visual tokens" in output.err
    assert "120 x 90 px" in output.err
    assert "visual tokens" not in output.out


def test_quiet_prints_the_answer_only(capsys, good_folder, picture):
    assert ask(picture, "what is it?", "--model", good_folder, "--max-new-tokens", 4, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_json_holds_everything(capsys, good_folder, picture):
    answer = answered(capsys, picture, "what is it?", "--model", good_folder)
    assert answer["question"] == "what is it?"
    assert answer["images"] == [str(picture)]
    assert answer["receipt"]["looks"][0]["original_size"] == [120, 90]
    assert answer["receipt"]["new_tokens"] <= 4


def test_the_budget_decides_how_many_patches_are_chosen(capsys, good_folder, picture):
    counts = {}
    for budget in ("0", "7", "auto", "all"):
        counts[budget] = patches(answered(capsys, picture, "q", "--model", good_folder, "--budget", budget))[
            0
        ]
    assert counts["0"] == 0
    assert counts["7"] == 7
    assert 7 < counts["auto"] <= counts["all"]


@pytest.mark.parametrize("guide", ["prompt", "saliency", "10,10,60,60"])
def test_every_guide_answers(capsys, good_folder, picture, guide):
    words = ["--model", good_folder, "--budget", 9, "--guided-by", guide]
    assert patches(answered(capsys, picture, "q", *words)) == [9]


def test_other_options_answer(capsys, good_folder, picture):
    words = [
        "--model",
        good_folder,
        "--per-scale",
        "3,5",
        "--max-scale",
        64,
        "--smooth",
        "--dtype",
        "bfloat16",
    ]
    look = answered(capsys, picture, "q", *words)["receipt"]["looks"][0]
    assert look["scales"][1]["chosen"] == 0


def test_drawing_tokens_follows_the_seed(capsys, good_folder, picture):
    words = [picture, "q", "--model", good_folder, "--temperature", "2.5", "--seed"]
    first, same, other = (answered(capsys, *words, seed)["answer"] for seed in (3, 3, 4))
    assert first == same != other


def test_several_pictures_of_different_shapes(capsys, good_folder, picture, wide_picture):
    answer = answered(
        capsys, picture, wide_picture, "q", "--model", good_folder, "--guided-by", "2:0,0,100,3"
    )
    assert [look["original_size"] for look in answer["receipt"]["looks"]] == [[120, 90], [500, 3]]


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_explain_writes_a_lens(capsys, good_folder, picture, tmp_path, suffix):
    lens = tmp_path / f"lens.{suffix}"
    assert answered(capsys, picture, "q", "--model", good_folder, "--explain", lens)["explain"] == str(lens)
    assert lens.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-scale", 65], "65"),
        (["--per-scale", "1,2,3"], "3"),
        (["--per-scale", "0,0"], "per_scale"),
        (["--guided-by", "1000,1000,1010,1010"], "1000"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_options_that_do_not_fit_this_model_or_picture(capsys, good_folder, picture, words, expected):
    assert expected in refused(capsys, picture, "q", "--model", good_folder, *words)


@pytest.mark.parametrize("name", ["nonsense", "/no/such/folder", "./missing", "bad//name"])
def test_a_model_that_does_not_exist(capsys, picture, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert name in refused(capsys, picture, "q", "--model", name)


def change_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def put(key, value):
    return lambda folder: change_tensors(
        folder, lambda tensors: tensors.update({key(tensors): value(tensors)})
    )


def first(tensors):
    return next(iter(sorted(tensors)))


def drop(folder):
    change_tensors(folder, lambda tensors: tensors.pop(first(tensors)))


def poison(folder):
    change_tensors(folder, lambda tensors: tensors[first(tensors)].view(-1)[:1].fill_(float("nan")))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5) + b"{}")


def pickle_only(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def edit_config(**values):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def remove(*names):
    def edit(folder):
        for name in names:
            (folder / name).unlink()

    return edit


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (drop, "missing"),
        (put(lambda tensors: "stranger", lambda tensors: torch.ones(3)), "stranger"),
        (put(first, lambda tensors: torch.ones(1, 2, 3)), "(1, 2, 3)"),
        (poison, "NaN"),
        (cut, "cut off"),
        (only_header, "safetensors"),
        (pickle_only, "pickle"),
        (remove("model.safetensors"), "model.safetensors"),
        (remove("config.json"), "config.json"),
        (write("config.json", "{"), "config.json"),
        (write("config.json", "{}"), "model_type"),
        (edit_config(model_type="qwen2"), "qwen2"),
        (edit_config(projector_type="magic"), "magic"),
        (edit_config(projector_type=7), "projector_type"),
        (edit_config(text_config={"model_type": "no_such_llm"}), "no_such_llm"),
        (remove("chat_template.jinja"), "chat_template.jinja"),
        (write("chat_template.jinja", "{% if %}"), "template"),
        (remove("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
        (write("tokenizer.json", "{}"), "tokenizer"),
        (remove("processor_config.json"), "processor_config.json"),
        (write("processor_config.json", "[]"), "processor_config.json"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_damaged_model_folders_are_refused(capsys, folder, picture, damage, expected):
    damage(folder)
    assert expected in refused(capsys, picture, "q", "--model", folder)


def test_python_files_in_a_folder_are_not_run(capsys, folder, picture, tmp_path):
    """The folder names a file of code, which would leave a trace if it were run."""
    trace = tmp_path / "trace"
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(trace)!r}, 'w').write('ran')\n")
    ask(picture, "q", "--model", folder, "--max-new-tokens", 2)
    capsys.readouterr()
    assert not trace.exists()
