"""Pruned answers of models whose towers see whole pictures."""

import pytest
import torch
from torch import Tensor

from vila_hd import HighResOptions, VilaHDForConditionalGeneration, ask
from vila_hd.batches import Prompt, answer_batch
from vila_hd.options import Pruning
from vila_hd.ps3.received import Received, received, received_first_view, received_high_res
from vila_hd.testing import tiny_config, tiny_model, tiny_picture, tiny_processor, user_message
from vila_hd.towers.choice import EncoderChoice

ENCODERS = [
    EncoderChoice(kind="low_res"),
    EncoderChoice(kind="anyres", max_tiles=6),
    EncoderChoice(kind="s2", scales=(32, 64)),
    EncoderChoice(kind="s2", scales=(32, 64), output_scale="smallest"),
]
PICTURES = [tiny_picture(300, 140), tiny_picture(20, 20, seed=1), tiny_picture(64, 400, seed=2)]
kinds = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.kind)
methods = pytest.mark.parametrize("method", ["tome", "visionzip", "fastv"])


def looks(method: str, keep: float) -> HighResOptions:
    return HighResOptions(guided_by="saliency", pruning=Pruning(method=method, keep=keep, layer=1))


@kinds
@methods
def test_tokens_are_counted_and_a_batch_answers_like_single_prompts(
    encoder: EncoderChoice, method: str
) -> None:
    config = tiny_config(encoder=encoder)
    model, processor = tiny_model(config), tiny_processor(config)
    chats = [Prompt([user_message(f"what is {i}?", shown)], [shown]) for i, shown in enumerate(PICTURES)]
    together = answer_batch(model, processor, chats, high_res=looks(method, 0.4), max_new_tokens=4)
    for number, shown in enumerate(PICTURES):
        question = {"images": [shown], "question": f"what is {number}?", "max_new_tokens": 4}
        full = ask(model, processor, **question)
        pruned = ask(model, processor, **question, high_res=looks(method, 0.4))
        kept = Pruning(method=method, keep=0.4).num_kept(full.receipt.visual_tokens)
        assert pruned.receipt.visual_tokens == kept
        assert pruned.text == together[number].text
        assert ask(model, processor, **question, high_res=looks(method, 1.0)).text == full.text


def block_inputs(
    model: VilaHDForConditionalGeneration, pictures: list[Tensor]
) -> tuple[list[Tensor], Received]:
    """What enters the projected block in each run of the trunk, and what is measured of the first view."""
    tower, config = model.model.vision_tower, model.config
    block = tower.vision_model.trunk.blocks[config.select_layer]
    seen: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    low = tower.encode_low_res(pictures, layers=(-2, -3))
    hook.remove()
    return seen, received_first_view(block, low.features[1], config.vision_config)


def pixels(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("output", ["largest", "smallest"])
@torch.no_grad()
def test_s2_measures_the_scale_of_its_map_tile_by_tile(output: str) -> None:
    config = tiny_config(encoder=EncoderChoice(kind="s2", scales=(32, 64), output_scale=output))
    model = tiny_model(config)
    (small, large), found = block_inputs(model, [pixels(70, 50), pixels(40, 90, 1)])
    block = model.model.vision_tower.vision_model.trunk.blocks[-2]
    direct = received(block, large if output == "largest" else small)
    if output == "smallest":
        torch.testing.assert_close(found.attention, direct.attention)
        torch.testing.assert_close(found.keys, direct.keys)
        return
    for picture in range(2):
        quarters = direct.attention[4 * picture : 4 * picture + 4].view(4, 4, 4)
        whole = torch.cat([torch.cat([*quarters[:2]], 1), torch.cat([*quarters[2:]], 1)])
        torch.testing.assert_close(found.attention[picture].view(8, 8), whole)


@torch.no_grad()
def test_anyres_measures_every_tile_by_itself() -> None:
    model = tiny_model(tiny_config(encoder=EncoderChoice(kind="anyres", max_tiles=6)))
    tower = model.model.vision_tower
    block = tower.vision_model.trunk.blocks[-2]
    low = tower.encode_low_res([pixels(64, 96), pixels(32, 64, 1)], layers=(-2, -3))
    scores = tower.score(low, look_index=torch.tensor([1, 0]))
    selection = tower.select(low, scores, options=HighResOptions(), look_index=torch.tensor([1, 0]))
    seen: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    high = tower.encode_high_res(low, selection, layers=(-2, -3), look_index=torch.tensor([1, 0]))
    hook.remove()
    found = received_high_res(block, high.features[1], low, 1, selection, torch.tensor([1, 0]))
    direct = received(block, torch.cat(seen)).attention.view(-1, 4, 4)  # tiles: picture 0, then picture 1
    rows, columns = (number // 4 for number in low.grids[0][0])
    first = direct[: rows * columns].view(rows, columns, 4, 4).transpose(1, 2).reshape(-1)
    torch.testing.assert_close(found.attention[1], first)
    other = direct[rows * columns :]
    rows, columns = (number // 4 for number in low.grids[1][0])
    second = other.view(rows, columns, 4, 4).transpose(1, 2).reshape(-1)
    torch.testing.assert_close(found.attention[0][: len(second)], second)
    assert not found.attention[0][len(second) :].any()
