"""Steps on rows of data files: mixed batches, packing, and the same loss however a step is divided."""

import dataclasses
from pathlib import Path

import pytest
import torch

from train import box_losses, steps
from train.config import DataConfig, LookConfig, OptimConfig, SelectionConfig, SourceConfig, StageConfig
from train.data.account import Report
from train.data.collators import SampleCollator
from train.data.samples import Sample
from train.objectives import language
from train.stages import freeze_all_but
from train.steps import LanguageStep, SelectStep
from vila_hd.supervision import ConversationEncoder
from vila_hd.testing import tiny_config, tiny_model, tiny_processor, user_message

CONFIG = tiny_config()
PROCESSOR = tiny_processor(CONFIG)


def stage(micro: int, *, kind: str = "sft", packing: bool = False, **selection) -> StageConfig:
    return StageConfig(
        name="rows",
        stage=kind,
        model=Path("none"),
        trainable=("vision", "selector", "projector", "llm"),
        output_dir=Path("none"),
        data=DataConfig(sources=(SourceConfig(path=Path("rows.jsonl")),), packing=packing),
        optim=OptimConfig(lr=1e-3),
        looks=LookConfig(per_scale=(16, 64)),
        selection=SelectionConfig(**{"bottom_up_weight": 0.0, "rank_weight": 1.0, **selection}),
        max_steps=1,
        global_batch_size=4,
        micro_batch_size=micro,
        precision="fp32",
    )


def sample(questions: list[str], pictures: int, boxes: list[tuple] | None = None, seed: int = 0) -> Sample:
    """A chat whose first question shows all pictures; ``boxes`` per picture."""
    chat = []
    for number, question in enumerate(questions):
        shown = [None] * pictures if number == 0 else []
        chat += [user_message(question, *shown), {"role": "assistant", "content": f"answer {number} " * 2}]
    encoded = ConversationEncoder(PROCESSOR)(chat)
    place = encoded.prompt_positions(CONFIG.prompt_end_ids)[0]
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 128, 80), (3, 128, 128), (3, 60, 128)]
    return Sample(
        report=Report(),
        input_ids=tuple(encoded.input_ids[: encoded.turns[-1].stop]),
        labels=tuple(encoded.labels[: encoded.turns[-1].stop]),
        look_positions=(place,) * pictures,
        pictures=tuple(
            torch.randint(256, shapes[i % 3], generator=generator, dtype=torch.uint8) for i in range(pictures)
        ),
        sizes=((100, 100),) * pictures,
        boxes=tuple(map(tuple, boxes or [[]] * pictures)),
        own_choice=(False,) * pictures,
    )


SAMPLES = [
    sample(["a text only", "and more of it, rather long"], 0),
    sample(["what is this?"], 1, [[(10.0, 10.0, 40.0, 60.0)]], seed=1),
    sample(
        ["compare these", "why?", "sure?"],
        3,
        [[], [(0.0, 0.0, 30.0, 30.0), (60.0, 60.0, 90.0, 80.0)], []],
        seed=2,
    ),
    sample(["and this? " * 6], 1, seed=3),
]


def run(config: StageConfig, step_type=LanguageStep, split=None, ranks=None):
    """Summed loss and gradients of a step, divided into micro-batches of ``config.micro_batch_size``."""
    model = tiny_model(CONFIG)
    model.train()
    freeze_all_but(model, config.trainable)
    step = step_type(config)
    collate = SampleCollator(PROCESSOR.tokenizer.pad_token_id)
    parts = split or [SAMPLES[i : i + config.micro_batch_size] for i in range(0, 4, config.micro_batch_size)]
    batches = [collate(part) for part in parts]
    num_items = torch.tensor(sum(language.count_supervised(batch["labels"]) for batch in batches))
    step.begin(batches, 0)
    total, metrics = 0.0, []
    for batch in batches:
        result = step(model, batch, num_items=num_items)
        # The engine takes the mean over ranks, and the trainer over micro-batches where losses are no shares.
        factor = 1 / (ranks or (1 if step.normalised_over_accumulation else len(batches)))
        (result.loss * factor).backward()
        total += float(result.loss.detach()) * factor
        metrics.append(result.metrics)
    return total, {name: p.grad for name, p in model.named_parameters()}, metrics


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        if gradient is None or other[1][name] is None:
            assert not any(g is not None and g.any() for g in (gradient, other[1][name])), name
        else:
            torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def whole():
    return run(stage(4))


def test_mixed_batch_trains_everything(whole):
    loss, gradients, (metrics,) = whole
    assert torch.isfinite(torch.tensor(loss))
    assert metrics["top_down_bce"] > 0
    assert metrics["high_res_patches"] > 0
    for part in (
        "language_model",
        "model.projector.",
        "top_down_prompt_head",
        "vision_tower.vision_model.trunk",
    ):
        assert any(part in name and g is not None and g.any() for name, g in gradients.items()), part


def test_each_step_draws_its_share_of_the_patches(whole):
    config = dataclasses.replace(stage(4), looks=LookConfig(per_scale=(16, 64), least_share=0.25))
    shares = [steps.share_of_step(config, number) for number in range(200)]
    assert shares == [steps.share_of_step(config, number) for number in range(200)]
    assert shares != [steps.share_of_step(dataclasses.replace(config, seed=1), n) for n in range(200)]
    assert 0.25 <= min(shares) < 0.27
    assert 0.93 < max(shares) <= 1
    assert sum(share < 0.5 for share in shares) == pytest.approx(100, abs=25)  # even in its logarithm
    (metrics,) = run(config)[2]
    assert whole[2][0]["high_res_patches"] == 80
    assert metrics["high_res_patches"] == round(80 * shares[0]) < 80


def test_four_micro_batches_equal_one(whole):
    parts = run(stage(1))
    assert_same(parts, whole)
    means = {name: sum(float(m[name]) for m in parts[2]) / 4 for name in ("top_down_bce", "top_down_hit")}
    assert means == pytest.approx({name: float(whole[2][0][name]) for name in means}, rel=1e-4)


def test_four_ranks_equal_one(whole, monkeypatch):
    for module in (steps, box_losses):
        monkeypatch.setattr(module, "world_size", lambda: 4)
    # What run() counts over its batches is the sum over ranks.
    assert_same(run(stage(1), ranks=4), whole)


def test_order_and_padding_do_not_matter(whole):
    assert_same(run(stage(2), split=[[SAMPLES[3], SAMPLES[0]], [SAMPLES[2], SAMPLES[1]]]), whole)


@pytest.mark.parametrize("micro", [4, 1])
def test_packed_loss_equals_unpacked(whole, micro):
    assert_same(run(stage(micro, packing=True)), whole)


def test_text_only_batches_train_the_language_model_and_touch_the_rest():
    texts = [SAMPLES[0], sample(["another"], 0)]
    for packing in (False, True):
        _, gradients, (metrics,) = run(stage(2, packing=packing), split=[texts])
        assert metrics["high_res_patches"] == metrics["top_down_bce"] == 0
        tower = [g for name, g in gradients.items() if "vision_tower" in name and g is not None]
        assert tower
        assert not any(g.any() for g in tower)


@pytest.mark.parametrize("packing", [False, True])
def test_select_step_divides_by_looks_with_boxes(packing):
    with_boxes = [SAMPLES[1], SAMPLES[2], SAMPLES[1], SAMPLES[1]]
    config = stage(2, kind="select", packing=packing)
    parts = run(config, SelectStep, split=[with_boxes[:2], with_boxes[2:]])
    both = run(dataclasses.replace(config, micro_batch_size=4), SelectStep, split=[with_boxes])
    assert_same(parts, both)


def test_a_boxed_look_is_given_its_box_and_counts_once():
    batch = SampleCollator(0)(SAMPLES)
    boxes, look = box_losses.shares_of_pictures(batch), box_losses.box_looks(batch)
    regions = box_losses.boxes_as_regions(boxes, look, len(batch["look_index"]))
    assert regions.on_grid(10, 10).flatten(1).sum(1).tolist() == [15, 0, 9 + 6, 0, 0]
    shares = box_losses.BoxShares(stage(4))
    shares.begin([batch, batch])
    assert shares.total == 4
    assert shares.of(batch, 2) == 0.5
