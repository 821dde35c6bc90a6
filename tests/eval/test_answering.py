import pytest
import torch

from eval.answering import Answerer, box_recall, fingerprint
from eval.conditions import cross
from eval.registry import Example
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor

SIZE = (256, 128)


class Toy:
    """Three questions about pictures of one size."""

    name, metric, max_new_tokens = "toy", "exact match", 4

    def __len__(self):
        return 3

    def example(self, index):
        return Example(
            uid=f"toy-{index}",
            prompt="what is it?" + " really?" * index,
            load_images=lambda: (tiny_picture(*SIZE, seed=index),),
            answers=("x",),
            regions=(((16.0 * index, 8.0, 16.0 * index + 40, 60.0),),),
        )

    def score(self, example, prediction):
        return float(prediction == example.answers[0])

    def aggregate(self, scores):
        return sum(scores) / len(scores)


@pytest.fixture(scope="module")
def answerer():
    return Answerer.of(tiny_model(), tiny_processor())


def answer(answerer, indices, *, budgets=("0", "12"), guides=("prompt", "random")):
    toy = Toy()
    return answerer.answer(toy, [toy.example(index) for index in indices], cross(budgets, guides))


def test_a_batch_gives_what_single_questions_give(answerer):
    batched = {entry.key: entry for entry in answer(answerer, range(3))}
    for index in range(3):
        for single in answer(answerer, [index]):
            together = batched[single.key]
            assert (together.prediction, together.patches) == (single.prediction, single.patches)
            assert (together.visual_tokens, together.recall) == (single.visual_tokens, single.recall)


def test_pruned_rows_share_the_low_res_pass_and_count_what_is_left(answerer):
    toy = Toy()
    examples = [toy.example(index) for index in range(2)]
    prunings = ["none", "tome:0.5", "visionzip:0.5", "fastv:0.5:1"]
    conditions = cross(["all"], ["saliency"], prunings=prunings)
    found = answerer.answer(toy, examples, conditions)
    full, *pruned = (found[start].visual_tokens for start in range(0, 8, 2))
    assert pruned == [full // 2] * 3
    assert found[2].prompt_tokens == found[0].prompt_tokens - full + full // 2
    assert found[6].prompt_tokens == found[0].prompt_tokens  # its first block sees everything
    assert {entry.patches for entry in found} == {found[0].patches}
    for condition, start in zip(conditions, range(0, 8, 2), strict=True):
        alone = answerer.answer(toy, examples, [condition])
        assert [entry.prediction for entry in alone] == [e.prediction for e in found[start : start + 2]]


def test_counts_follow_the_budget(answerer):
    low, prompt, _ = answer(answerer, [0])
    assert (low.condition, low.patches, low.recall) == ("low-res", 0, 0.0)
    assert prompt.patches == 12
    assert low.visual_tokens == answerer.model.config.low_res_tokens < prompt.visual_tokens


def test_everything_chosen_sees_the_whole_region(answerer):
    for entry in answer(answerer, [1], budgets=("all",)):
        assert entry.recall == 1.0


def test_random_choice_depends_on_the_example_only(answerer):
    def recalls(indices):
        entries = answer(answerer, indices, budgets=("12",), guides=("random",))
        return {entry.uid: entry.recall for entry in entries}

    assert recalls([2, 0])["toy-2"] == recalls([2])["toy-2"]


def test_recall_counts_touched_patches():
    chosen = torch.zeros(4, 8, dtype=torch.bool)
    chosen[1, 2] = True
    assert box_recall(chosen, (20, 10, 30, 20), (80, 40)) == 1.0
    assert box_recall(chosen, (19.5, 10, 30, 20), (80, 40)) == 0.5
    assert box_recall(chosen, (20, 10, 40, 30), (80, 40)) == 0.25
    assert box_recall(chosen, (0, 0, 80, 40), (80, 40)) == 1 / 32


def test_the_fingerprint_follows_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert fingerprint(str(tmp_path)) != first
    assert fingerprint("someone/model") == "someone/model"
