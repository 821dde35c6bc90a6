"""One pre-training step does not depend on how pictures are spread over ranks; its two numbers are kept."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from train.config import ContrastiveConfig, OptimConfig, SelectionConfig, StageConfig
from train.data.collators import RegionCollator
from train.data.scenes import Picture, Regions
from train.objectives import contrastive
from train.steps import PretrainStep
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.testing import tiny_tokenizer, tiny_vision_config


def stage(target="all_boxes") -> StageConfig:
    return StageConfig(
        name="test", stage="ps3_pretrain", model=Path("none"), output_dir=Path("none"),
        trainable=("vision", "selector", "text"), optim=OptimConfig(lr=1e-3), max_steps=1,
        global_batch_size=4, micro_batch_size=2, precision="fp32",
        contrastive=ContrastiveConfig(), selection=SelectionConfig(bottom_up_target=target),
    )  # fmt: skip


def tiny_ps3() -> PS3Model:
    torch.manual_seed(0)
    text = PS3TextConfig(
        vocab_size=len(tiny_tokenizer()), width=16, heads=2, layers=1, context_length=12, output_dim=32,
        prompt_proj_dim=32, no_causal_mask=True, pool_type="last",
    )  # fmt: skip
    return PS3Model(PS3Config(vision_config=tiny_vision_config(), text_config=text, logit_bias_init=-2.0))


def rows() -> list[Regions]:
    """Different numbers of regions, equal captions, whole pictures with regions and without."""
    generator = torch.Generator().manual_seed(4)
    said = [("red a", "blue b"), ("red a",), (), ("green c", "blue b", "d")]
    made = []
    for number, captions in enumerate(said):
        pixels = torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[8 + 20 * i, 10, 40 + 20 * i, 50] for i in range(3)])
        whole = f"town {number % 2}"
        picture = Picture(number, pixels, boxes, whole)
        made.append(
            Regions(picture, boxes[: len(captions)], captions, ((),) * len(captions), number in (1, 2))
        )
    return made


def step_and_grads(part: list[Regions], target: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = tiny_ps3()
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))(part)
    result = PretrainStep(stage(target))(model, batch, num_items=None)
    result.loss.backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return result.loss.detach(), grads


CASES = {
    "uneven": ([0, 1, 4], "all_boxes"),
    "one rank has nothing but whole pictures": ([0, 2, 3], "sampled_boxes"),
}
"""First rows of the two ranks and the end, and the target of the map without text."""


def worker(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    results = {
        name: step_and_grads(rows()[bounds[index] : bounds[index + 1]], target)
        for name, (bounds, target) in CASES.items()
    }
    torch.save(results, f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(of_two_ranks, case):
    bounds, target = CASES[case]
    (loss_0, grads_0), (loss_1, grads_1) = (results[case] for results in of_two_ranks)
    loss, grads = step_and_grads(rows()[: bounds[-1]], target)
    torch.testing.assert_close((loss_0 + loss_1) / 2, loss, rtol=1e-5, atol=1e-6)
    assert len(grads) > 40
    for name, grad in grads.items():
        mean = sum(part[name] for part in (grads_0, grads_1) if name in part) / 2
        torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_regions_of_a_picture_and_equal_captions_are_no_negatives():
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))(rows())
    picture = batch["picture_ids"][batch["look_index"]]
    allowed = contrastive.negatives(
        picture, batch["caption_ids"], picture, batch["caption_ids"], intra_image=False
    )
    looks = batch["look_index"].tolist()
    text = batch["text_index"].tolist()
    for i in range(len(looks)):
        for j in range(len(looks)):
            assert bool(allowed[i, j]) == (looks[i] != looks[j] and text[i] != text[j])
    # "red a" of picture 0 and of picture 1: the same wording, so never a negative of each other.
    assert text[0] == text[2]
    assert not allowed[0, 2]


def test_one_low_resolution_pass_per_picture():
    model = tiny_ps3()
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))(rows())
    seen = []
    original = model.vision_model.encode_low_res
    model.vision_model.encode_low_res = lambda pixels, **options: (
        seen.append(len(pixels)) or original(pixels, **options)
    )
    PretrainStep(stage())(model, batch, num_items=None)
    assert seen == [4]
    assert len(batch["look_index"]) == 8


def test_scale_and_bias_learn_and_are_kept(tmp_path):
    model = tiny_ps3()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))(rows())
    for _ in range(2):
        optimizer.zero_grad()
        PretrainStep(stage())(model, batch, num_items=None).loss.backward()
        optimizer.step()
    assert float(model.logit_bias.detach()) != -2.0
    model.save_pretrained(tmp_path)
    loaded = PS3Model.from_pretrained(tmp_path)
    for name in ("logit_scale", "logit_bias"):
        assert torch.equal(getattr(loaded, name), getattr(model, name))
