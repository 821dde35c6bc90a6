"""What was recorded of the published VILA-HD around the model: ids, labels, pixels and the selection's loss.

By default a part runs; ``--goldens-vila-hd FOLDER`` compares all.
"""

from typing import Any

import pytest
import torch

from llava_compat.first_turn import first_turn_ends
from train.objectives.selection import maps_to_targets, selection_loss
from vila_hd.supervision import ConversationEncoder

LOSS = {"atol": 2e-5, "rtol": 0.0}
GRAD = {"atol": 2e-5, "rtol": 1e-4}


def to_chat(turns: list[dict[str, str]], *, no_system: bool) -> list[dict[str, Any]]:
    """A recorded conversation as messages; values are stripped, as the published code does."""
    chat: list[dict[str, Any]] = [{"role": "system", "content": ""}] if no_system else []
    for turn in turns:
        content: list[dict[str, Any]] = []
        for number, text in enumerate(turn["value"].strip().split("<image>")):
            content += [{"type": "image"}] * (number > 0) + [{"type": "text", "text": text}] * bool(text)
        has_pictures = any(item["type"] == "image" for item in content)
        role = "user" if turn["from"] == "human" else "assistant"
        chat.append({"role": role, "content": content if has_pictures else turn["value"].strip()})
    return chat


@pytest.mark.kinds("tokenization")
def test_ids_of_prompts(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    for prompt in vila_case["prompts"]:
        inputs = vila_goldens.inputs_of(processor, prompt["parts"])
        kept = vila_goldens.kept_columns(processor, inputs["input_ids"][0].tolist())
        assert inputs["input_ids"][0, kept].tolist() == prompt["input_ids"]
        recorded = torch.tensor([prompt["input_ids"]])
        ends = first_turn_ends(recorded, torch.ones_like(recorded), model.config.prompt_end_ids)
        assert ends.tolist() == [prompt["prompt_end_position"]]
    rows = [prompt["input_ids"] for prompt in vila_case["prompts"]]
    width = max(map(len, rows))
    # The last row has no end of a question anywhere.
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows] + [[1] * width])
    pad = processor.tokenizer.pad_token_id
    padded = torch.tensor([row + [pad] * (width - len(row)) for row in rows] + [[5] * width])
    ends = first_turn_ends(padded, mask, model.config.prompt_end_ids)
    assert ends.tolist() == vila_case["padded_rows_prompt_end_positions"]


@pytest.mark.kinds("labels")
def test_labels(vila_case, vila_goldens, load_recorded):
    _, processor = load_recorded(vila_case["model"])
    encode = ConversationEncoder(processor, published=True)
    for item in vila_case["items"]:
        encoded = encode(to_chat(item["conversation"], no_system=item["no_system_prompt"]))
        kept = vila_goldens.kept_columns(processor, encoded.input_ids)
        assert [encoded.input_ids[i] for i in kept] == item["input_ids"]
        assert [encoded.labels[i] for i in kept] == item["labels"]


@pytest.mark.kinds("pixel_values")
def test_pixels(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    step = vila_case.get("stride", 1)
    for i, path in enumerate(vila_case["images"]):
        pixels = processor(str(vila_goldens.folder / path), "<image>", return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels[:, ::step, ::step], recorded[f"image{i}.u8"])
    vision = model.config.vision_config
    assert vision.image_mean == vila_case["mean"]
    assert vision.image_std == vila_case["std"]


@pytest.mark.kinds("selection_loss")
def test_selection_losses(vila_case, vila_goldens):
    recorded = vila_goldens.tensors(vila_case)
    scales = range(len(vila_case["per_scale"]))
    probs = [recorded[f"selection_probs.{i}"].requires_grad_() for i in scales]
    targets = maps_to_targets(recorded["gt_selection_maps"], [tuple(prob.shape[1:]) for prob in probs])
    for prob, target, said in zip(probs, targets, vila_case["per_scale"], strict=True):
        bce, dice = selection_loss([prob], [target])
        torch.testing.assert_close(bce.item(), said["bce"], **LOSS)
        torch.testing.assert_close(dice.item(), said["dice"], **LOSS)
        assert int(target.sum()) == said["positive_cells"]
    loss = sum(selection_loss(probs, targets))
    torch.testing.assert_close(loss.item(), vila_case["expected_loss"], **LOSS)
    loss.backward()
    for i in scales:
        torch.testing.assert_close(probs[i].grad, recorded[f"grad_selection_probs.{i}"], **GRAD)


def test_every_recorded_field_is_compared(ledgers):
    """Of the cases that ran before this one."""
    missing = ledgers["VILA-HD"].missing()
    assert not missing.keys() & {"prompts", "items", "mean", "per_scale", "image0.u8", "gt_selection_maps"}
