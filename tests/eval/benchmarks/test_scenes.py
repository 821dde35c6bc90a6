import pytest

from eval.benchmarks.scenes import SceneBenchmark
from eval.registry import get_benchmark
from vila_hd.errors import VilaHDError
from vila_hd.scenes import SPLITS, answers, make_scene
from vila_hd.scenes.language import COUNT_WORDS


def test_examples_are_held_out_unique_and_stable():
    benchmark = SceneBenchmark(count=3, questions_per_scene=2)
    examples = [benchmark.example(index) for index in range(len(benchmark))]
    assert len({example.uid for example in examples}) == 6
    assert {int(example.uid.split("-")[1]) in SPLITS["test"] for example in examples} == {True}
    again = SceneBenchmark(count=3, questions_per_scene=2).example(4)
    assert (again.uid, again.prompt, again.answers, again.regions) == (
        examples[4].uid, examples[4].prompt, examples[4].answers, examples[4].regions,
    )  # fmt: skip


def test_more_questions_per_scene_keep_the_first():
    assert SceneBenchmark(questions_per_scene=3).example(3).uid == SceneBenchmark().example(1).uid


def test_the_answer_is_one_of_the_tier_and_scores_one():
    benchmark = SceneBenchmark(count=1, tiers=("digit",))
    example = benchmark.example(0)
    assert example.group == "digit"
    assert example.answers[0] in answers("digit")
    assert benchmark.score(example, example.answers[0]) == 1.0
    assert benchmark.chance() == {"digit": 0.1}


@pytest.mark.parametrize(
    ("kind", "chance"), [("where", 1 / 9), ("count", 0.2), ("time", 0.25), ("place", 1 / 3)]
)
def test_what_is_seen_from_afar_can_be_asked_for(kind, chance):
    benchmark = SceneBenchmark(count=30, kind=kind)
    examples = [benchmark.example(index) for index in range(30)]
    assert {example.group for example in examples} == {kind}
    assert {len(example.regions) for example in examples} == {1 if kind == "where" else 0}
    assert 2 <= len({example.answers for example in examples}) <= round(1 / chance)
    assert benchmark.chance() == {kind: pytest.approx(chance)}


def test_a_count_is_that_of_the_scene():
    benchmark = SceneBenchmark(count=10, kind="count")
    for index in range(10):
        example = benchmark.example(index)
        scene = make_scene(int(example.uid.split("-")[1]))
        counts = {item.plate: 0 for item in scene.objects}
        for item in scene.objects:
            counts[item.plate] += 1
        plate = next((plate for plate in counts if plate in example.prompt), None)
        assert example.answers == (COUNT_WORDS[counts.get(plate, 0)],)


@pytest.mark.slow
def test_the_box_lies_in_the_picture():
    example = SceneBenchmark(count=1).example(0)
    (picture,) = example.load_images()
    ((x1, y1, x2, y2),) = example.regions[0]
    assert picture.size == (3840, 2160)
    assert 0 <= x1 < x2 <= 3840
    assert 0 <= y1 < y2 <= 2160


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count 0"),
        ({"questions_per_scene": 13}, "--questions-per-scene 13: use 1 to 12"),
        (
            {"kind": "time", "questions_per_scene": 2},
            "use 1, a scene has one about its time",
        ),
        ({"kind": "why"}, "--kind 'why' is unknown: use one of mark, count, time, place, where"),
        ({"tiers": ("rune",)}, "--tier 'rune' is unknown"),
        ({"split": "exam"}, "unknown split 'exam'"),
        ({"count": 10**9}, "seeds"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(VilaHDError, match=message):
        SceneBenchmark(**options)


def test_the_registry_finds_it():
    assert get_benchmark("scenes") is SceneBenchmark
    with pytest.raises(VilaHDError, match="'docs' is unknown"):
        get_benchmark("docs")
