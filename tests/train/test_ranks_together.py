"""Ranks whose batches hold different things take the same step: nobody waits forever, no gradient is lost."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from train.distributed import rank
from train.engine import engine_config, prepare_process, whole_models
from vila_hd.options import HighResOptions
from vila_hd.testing import tiny_config, tiny_model
from vila_hd.towers.choice import PS3, EncoderChoice
from vila_hd.towers.modeling_towers import TOWERS

CONFIGS = Path(__file__).parents[2] / "configs/deepspeed"

# Kind of batch -> pictures (rows, columns) and the picture of every look.
KINDS: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "text": ([], []),
    "image": ([(128, 128)], [0]),
    "many": ([(128, 64), (48, 128), (128, 128)], [0, 1, 2]),
    "looks": ([(96, 128)], [0, 0, 0, 0]),
}


def make_batch(kind: str, config: Any) -> dict[str, Any]:
    """One row per look, or one row of text; the last four tokens are supervised."""
    sizes, looks = KINDS[kind]
    generator = torch.Generator().manual_seed(len(kind))
    rows = max(len(looks), 1)
    words = torch.randint(0, 200, (rows, 7 + len(kind)), generator=generator)
    shown = torch.full((rows if looks else 0, config.low_res_tokens), config.image_token_id)
    input_ids = torch.cat([shown, words], dim=1) if looks else words
    labels = input_ids.clone()
    labels[:, :-4] = -100
    batch: dict[str, Any] = {
        "input_ids": input_ids,
        "labels": labels,
        "prompt_positions": torch.full((rows,), input_ids.shape[1] - 5),
    }
    if looks:
        batch["pixel_values"] = [
            torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
        ]
        batch["look_index"] = torch.tensor(looks)
    return batch


def take_steps(
    zero: int, pairs: list[tuple[str, str]], trainable: tuple[str, ...], encoder: EncoderChoice = PS3
) -> dict[str, Tensor]:
    """The weights after one step per pair; rank r gets the batch of the pair's entry r."""
    import deepspeed

    from train.config import OptimConfig
    from train.optimizer import parameter_groups
    from train.stages import freeze_all_but

    prepare_process()
    deepspeed.init_distributed(dist_backend="gloo")
    config = tiny_config(vision={"max_select_num": 12}, encoder=encoder)
    look = HighResOptions(budget=24) if encoder.kind == "ps3" else None
    with whole_models():
        model = tiny_model(config).train()
    freeze_all_but(model, trainable)
    settings = engine_config(CONFIGS / f"zero{zero}.json", "fp32")
    settings |= {
        "train_batch_size": 2,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
    }
    groups = parameter_groups(model, OptimConfig(lr=1e-2))
    # With a large epsilon the update is nearly the gradient itself, which is what shall be compared.
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=10.0, weight_decay=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for pair in pairs:
        batch = make_batch(pair[rank()], config)
        output = engine(**batch, high_res=look, num_items_in_batch=20)
        loss = output.loss
        if output.scores is not None and output.scores.requires_grad:
            loss = loss + output.scores.float().mean()
        engine.backward(loss)
        engine.step()
    if zero == 3:
        return engine._zero3_consolidated_16bit_state_dict() or {}
    return {name: value.detach().clone() for name, value in engine.module.state_dict().items()}


def check_same(
    run_ranks, values_of, zero, pairs, trainable=("vision", "selector", "projector", "llm"), encoder=PS3
):
    """ZeRO stage ``zero`` ends with the weights of stage 0, which sums up gradients one parameter at a
    time."""
    plain = values_of(run_ranks(take_steps, 0, pairs, trainable, encoder, timeout=300))
    cut = values_of(run_ranks(take_steps, zero, pairs, trainable, encoder, timeout=300))
    start = tiny_model(tiny_config(vision={"max_select_num": 12}, encoder=encoder)).state_dict()
    assert cut[0].keys() == start.keys()
    changed = 0
    for name, expected in plain[0].items():
        change = (expected - start[name]).abs().max().item()
        changed += change > 1e-6
        torch.testing.assert_close(cut[0][name], expected, rtol=0, atol=1e-3 * change + 1e-7, msg=name)
    assert changed > (30 if len(trainable) > 1 else 5)


@pytest.mark.parametrize("zero", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_text_on_one_rank_and_pictures_on_the_other(zero, run_ranks, values_of):
    check_same(run_ranks, values_of, zero, [("text", "many"), ("looks", "text")])


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainable",
    [("projector", "llm"), ("projector",), ("vision", "projector", "llm"), ("selector",), ("llm",)],
    ids="-".join,
)
@pytest.mark.parametrize("zero", [2, 3])
def test_text_on_one_rank_beside_frozen_components(zero, trainable, run_ranks, values_of):
    check_same(
        run_ranks, values_of, zero, [("text", "many"), ("looks", "text"), ("image", "text")], trainable
    )


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [("vision", "selector", "projector", "llm"), ("selector", "projector")])
@pytest.mark.parametrize("zero", [2, 3])
def test_every_mix(zero, trainable, run_ranks, values_of):
    check_same(run_ranks, values_of, zero, list(itertools.product(KINDS, KINDS)), trainable)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        EncoderChoice(kind="low_res"),
        EncoderChoice(kind="anyres", max_tiles=4),
        EncoderChoice(kind="s2", scales=(32, 64)),
    ],
    ids=lambda encoder: encoder.kind,
)
def test_towers_that_see_whole_pictures(encoder, run_ranks, values_of):
    # Ranks with no picture, with one that needs no tiles, and with several that need different numbers.
    pairs = [("text", "many"), ("looks", "text"), ("image", "many")]
    check_same(run_ranks, values_of, 3, pairs, ("vision", "projector", "llm"), encoder)


@pytest.mark.parametrize("file", ["zero3.json", "zero3_offload.json"])
def test_every_kind_of_tower_is_gathered_as_a_whole(file):
    leaf = json.loads((CONFIGS / file).read_text())["zero_optimization"]["leaf_module"]
    encoders = [tower.encoder_class for tower in TOWERS.values()]
    assert leaf == {"classes": [f"{cls.__module__}.{cls.__qualname__}" for cls in encoders]}
