"""Every task over a few rows in its dataset's own schema: real files, the real loader, the real scoring."""

import base64
import io
import json
import pickle
from pathlib import Path

import datasets
import pytest
from PIL import Image

from eval.benchmarks.tasks import Task
from eval.predict import example_at
from eval.registry import BENCHMARKS, get_benchmark, open_benchmark, summarise
from vila_hd.errors import VilaHDError

RECORDED = json.loads((Path(__file__).parents[2] / "golden" / "benchmarks.json").read_text())
"""Task -> a row as its dataset has it (PICTURE, BASE64: a picture), the prompt, right and wrong answers."""

RECORDED |= {"vstar_attribute": RECORDED["vstar"], "hrbench8k": RECORDED["hrbench4k"]}

SIZE = (6, 4)


def encoded(color="red"):
    file = io.BytesIO()
    Image.new("RGB", SIZE, color).save(file, "PNG")
    return file.getvalue()


def row_of(name, **changes):
    """The recorded row with its pictures."""
    pictures = {"PICTURE": {"bytes": encoded(), "path": None}, "BASE64": base64.b64encode(encoded()).decode()}
    row = {key: pictures.get(value, value) if isinstance(value, str) else value
           for key, value in RECORDED[name]["row"].items()}  # fmt: skip
    return {**row, **changes}


TASKS = [name for name in BENCHMARKS if isinstance(get_benchmark(name), Task)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, rows):
    """``rows`` as the hub stores them: parquet with the features of ``datasets``."""
    table = datasets.Dataset.from_list(rows)
    for column in ("image", "decoded_image", *(f"image_{number}" for number in range(1, 8))):
        if column in table.column_names and not isinstance(rows[0][column], str):
            table = table.cast_column(column, datasets.Image())
    (folder / name).mkdir(parents=True)
    if name == "4kpro":
        picture = folder / name / rows[0]["image"]
        picture.parent.mkdir(parents=True)
        picture.write_bytes(encoded())
    table.to_parquet(str(folder / name / f"{get_benchmark(name).split}-00000-of-00001.parquet"))
    return open_benchmark(name, data=folder)


@pytest.mark.parametrize("name", TASKS)
def test_rows_of_the_dataset_become_questions_and_scores(tmp_path, name):
    recorded = RECORDED[name]
    right, wrong = recorded["right"], recorded["wrong"]
    benchmark = write(tmp_path, name, [row_of(name)])
    example = benchmark.example(0)
    assert (benchmark.name, len(benchmark)) == (name, 1)
    assert example.prompt == recorded["prompt"]
    assert {picture.size for picture in example.load_images()} == {SIZE}
    assert example.load_images()[0].getpixel((0, 0)) == (255, 0, 0)
    assert [benchmark.score(example, text) for text in right] == pytest.approx([1.0] * len(right), abs=0.1)
    assert [benchmark.score(example, text) for text in wrong] == [0.0] * len(wrong)
    assert benchmark.aggregate([1.0]) > benchmark.aggregate([0.0])
    assert next(iter(summarise(benchmark, [example], [0.0]).values())) == 0.0
    assert pickle.loads(pickle.dumps(benchmark)).example(0).uid == example.uid


def summary(benchmark, predictions):
    """Numbers of the benchmark when its examples are answered like this."""
    examples = [benchmark.example(index) for index in range(len(benchmark))]
    scores = [benchmark.score(*pair) for pair in zip(examples, predictions, strict=True)]
    numbers = summarise(benchmark, examples, scores)
    assert next(iter(numbers.values())) == pytest.approx(benchmark.full_score * benchmark.aggregate(scores))
    return numbers


def test_mmbench_counts_a_question_only_when_every_rotation_is_right(tmp_path):
    rows = [
        row_of("mmbench_en_dev", index=index + copy * 1_000_000, **{"L2-category": group})
        for index, group in ((1, "x"), (2, "x"), (3, "y"))
        for copy in range(2)
    ]
    benchmark = write(tmp_path, "mmbench_en_dev", rows)
    assert summary(benchmark, ["B", "B", "B", "A", "A", "A"]) == {
        "circular accuracy": pytest.approx(100 / 3),
        "accuracy without rotation": 50.0,
        "x": 50.0,
        "y": 0.0,
    }


def test_mme_adds_subtasks_to_perception_and_cognition(tmp_path):
    rows = [
        row_of("mme", question_id=f"{task}/{number}.png", category=task, answer=answer)
        for task in ("existence", "code_reasoning")
        for number in range(2)
        for answer in ("Yes", "No")
    ]
    benchmark = write(tmp_path, "mme", rows)
    predictions = ["Yes", "No", "Yes", "Yes"] + ["Yes", "No"] * 2
    assert summary(benchmark, predictions) == {
        "MME score": pytest.approx(325.0),
        "existence": 125.0,
        "code_reasoning": 200.0,
        "perception": 125.0,
        "cognition": 200.0,
    }


def test_pope_reports_f1_beside_the_accuracy(tmp_path):
    rows = [
        row_of("pope", id=str(number), answer=answer)
        for number, answer in enumerate(["yes", "yes", "no", "no"])
    ]
    numbers = summary(write(tmp_path, "pope", rows), ["yes", "no", "no", "no"])
    assert (numbers["accuracy"], numbers["precision"], numbers["recall"]) == (75.0, 100.0, 50.0)
    assert numbers["F1"] == pytest.approx(200 / 3)
    assert numbers["yes ratio"] == 25.0


def test_ocrbench_is_counted_in_thousandths_and_formulas_ignore_blanks(tmp_path):
    rows = [
        row_of("ocrbench"),
        row_of("ocrbench", dataset="HME100k", question_type="Formula", answer=["x ^ { 2 }"]),
    ]
    numbers = summary(write(tmp_path, "ocrbench", rows), ["centre", "x^{2}"])
    assert numbers == {"OCRBench score": 1000.0, "Regular Text Recognition": 100.0, "Formula": 100.0}


def test_parts_of_vstar_are_told_apart(tmp_path):
    rows = [row_of("vstar"), row_of("vstar_position"), row_of("vstar", question_id="2")]
    assert len(write(tmp_path, "vstar", rows)) == 3
    parts = [open_benchmark(f"vstar_{part}", data=tmp_path / "vstar") for part in ("attribute", "position")]
    assert [len(part) for part in parts] == [2, 1]
    assert parts[1].example(0).uid == "1:115"  # the row of the whole, so that predictions can be compared
    write(tmp_path / "other", "vstar", rows[:1])
    with pytest.raises(VilaHDError, match="no row of the data has category 'relative_position'"):
        len(open_benchmark("vstar_position", data=tmp_path / "other" / "vstar"))


def test_realworldqa_also_has_answers_that_are_words(tmp_path):
    question = "How many cars?\nPlease answer directly with a single word or number."
    benchmark = write(tmp_path, "realworldqa", [row_of("realworldqa", question=question, answer="2")])
    example = benchmark.example(0)
    assert example.options == ()
    assert [benchmark.score(example, text) for text in ("2", "2.", "3", "A")] == [1.0, 1.0, 0.0, 0.0]


def test_open_questions_of_mmmu_and_its_pictures(tmp_path):
    rows = [
        row_of("mmmu_val", question_type="open", options="[]", answer="['24', 'twenty-four']"),
        row_of("mmmu_val", question_type="open", options="[]", answer="5.5"),
    ]
    benchmark = write(tmp_path, "mmmu_val", rows)
    first, second = benchmark.example(0), benchmark.example(1)
    assert first.prompt.endswith("single word or phrase.")
    assert first.group == "Art_Theory"
    assert len(first.load_images()) == 2
    assert first.answers == ("24", "twenty-four")
    assert [benchmark.score(first, text) for text in ("so it is 24.", "twenty-four", "25")] == [1.0, 1.0, 0.0]
    assert benchmark.score(second, "The answer is 5.50") == 1.0


@pytest.mark.parametrize(
    ("changes", "right", "wrong"),
    [
        ({"question_type": "multi_choice", "answer_type": "text", "choices": ["145", "35"], "answer": "35",
          "precision": None}, "B", "A"),
        ({"answer_type": "integer", "answer": "7", "precision": None}, "7 apples", "8"),
        ({"answer_type": "float", "answer": "1.25", "precision": 2.0}, "1.25", "1.26"),
        ({"answer_type": "list", "answer": "[1, 2]"}, "[1,2]", "[1]"),
        ({"answer_type": "text", "answer": "Yes"}, "yes.", "no"),
    ],
)  # fmt: skip
def test_kinds_of_mathvista(tmp_path, changes, right, wrong):
    benchmark = write(tmp_path, "mathvista_testmini", [row_of("mathvista_testmini", **changes)])
    example = benchmark.example(0)
    assert (benchmark.score(example, right), benchmark.score(example, wrong)) == (1.0, 0.0)


def test_4kpro_from_lines_of_json_with_boxes(tmp_path):
    row = row_of("4kpro")
    (tmp_path / "pictures").mkdir()
    (tmp_path / row["image"]).write_bytes(encoded("blue"))
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    benchmark = open_benchmark("4kpro", data=tmp_path)
    example = benchmark.example(0)
    assert example.load_images()[0].getpixel((0, 0)) == (0, 0, 255)
    assert example.regions == (((1.0, 1.0, 3.0, 2.0),),)
    assert (example.group, example.uid) == ("gaming", "0:gaming-0001")
    with pytest.raises(VilaHDError, match="'4kpro': no public dataset: give a folder of files with --data"):
        len(open_benchmark("4kpro"))


def test_damaged_boxes_are_an_error(tmp_path):
    benchmark = write(tmp_path, "4kpro", [row_of("4kpro", boxes=[[1, 2, 3]])])
    with pytest.raises(VilaHDError, match=r"'4kpro', row 0: boxes \[\[1, 2, 3\]\] are no list of"):
        benchmark.example(0)


def test_an_answer_that_is_no_option_is_an_error(tmp_path):
    benchmark = write(tmp_path, "hrbench4k", [row_of("hrbench4k", answer="E")])
    with pytest.raises(VilaHDError, match=r"'hrbench4k', row 0: answer 'E' is no option \(A, B, C, D\)"):
        benchmark.example(0)


@pytest.mark.parametrize("answer", [None, "", " "])
@pytest.mark.parametrize("name", ["chartqa", "hrbench4k"])
def test_a_missing_answer_is_an_error(tmp_path, name, answer):
    benchmark = write(tmp_path, name, [row_of(name), row_of(name, answer=answer)])
    with pytest.raises(VilaHDError, match=f"'{name}', row 1: no answer; splits for leaderboards have none"):
        benchmark.example(1)


def test_empty_ones_among_accepted_answers_are_left_out(tmp_path):
    benchmark = write(tmp_path, "docvqa_val", [row_of("docvqa_val", answers=[None, "nan", ""])])
    assert benchmark.example(0).answers == ("nan",)


def test_a_missing_question_is_an_error(tmp_path):
    benchmark = write(tmp_path, "chartqa", [row_of("chartqa"), row_of("chartqa", question=None)])
    with pytest.raises(VilaHDError, match="'chartqa', row 1: no question"):
        benchmark.example(1)


def test_ids_that_are_there_twice_and_further_columns_change_nothing(tmp_path):
    row = row_of("docvqa_val", extra_column=[1, 2])
    benchmark = write(tmp_path, "docvqa_val", [row, row])
    first, second = (benchmark.example(index) for index in (0, 1))
    assert first.uid != second.uid
    assert (first.prompt, first.answers) == (second.prompt, second.answers)


@pytest.mark.parametrize("name", TASKS)
def test_a_broken_row_counts_as_wrong_in_every_summary(tmp_path, name):
    good = write(tmp_path, name, [row_of(name)])
    examples = [good.example(0), example_at(good, 7)]
    assert examples[1].uid == "broken-7"
    right, with_broken = (
        next(iter(summarise(good, examples[:count], scores).values()))
        for count, scores in ((1, [1.0]), (2, [1.0, 0.0]))
    )
    # The sum over subtasks has no place for a row that belongs to none.
    assert with_broken == right if name == "mme" else with_broken < right


def test_a_missing_column_is_named(tmp_path):
    benchmark = write(tmp_path, "chartqa", [row_of("docvqa_val")])
    with pytest.raises(VilaHDError, match="'chartqa', row 0: no column 'answer'; the data has questionId, "):
        benchmark.example(0)
    row = row_of("chartqa")
    del row["image"]
    with pytest.raises(
        VilaHDError, match="'chartqa': no column 'image'; the data has type, question, answer"
    ):
        len(write(tmp_path / "other", "chartqa", [row]))


def test_every_task_has_the_name_it_is_found_by():
    assert len(TASKS) == 24
    assert [get_benchmark(name).name for name in TASKS] == TASKS
    assert all(RECORDED[name]["right"] and RECORDED[name]["wrong"] for name in TASKS)
