"""Everything that was recorded of the published VILA-HD, through ``load_checkpoint`` (float32).

By default a part of one recorded model runs; ``--goldens-vila-hd FOLDER`` compares all of all models.

Pictures are normalised before they are resized to the tower's scales (``do_normalize=True``), as in the
published code. By default ours resizes uint8, which moves probabilities by a little more than the recording's
tolerance.
"""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_compat.data import ReadOptions, read_rows
from llava_compat.first_turn import first_turn_ends
from train.objectives.selection import maps_to_targets, selection_loss
from vila_hd import HighResOptions
from vila_hd.fusion import Packed
from vila_hd.loss import next_token_loss
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import score_maps
from vila_hd.supervision import ConversationEncoder

FEATURES = {"atol": 3e-5, "rtol": 0.0}
LOGITS = {"atol": 1e-4, "rtol": 0.0}
PROBS = {"atol": 2e-6, "rtol": 0.0}
PROBS_OF_UINT8 = {"atol": 5e-6, "rtol": 0.0}
LOSS = {"atol": 2e-5, "rtol": 0.0}
GRAD = {"atol": 2e-5, "rtol": 1e-4}


def pixels_of(goldens, processor, paths: list[str]) -> Tensor:
    """Pictures as the published code hands them to its tower."""
    text = "<image>" * len(paths)
    files = [str(goldens.folder / path) for path in paths]
    return processor(files, text, return_tensors="pt", do_normalize=True)["pixel_values"]


def expand(processor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Recorded padded ids -> our ids, mask, and our column of every recorded column."""
    block = [processor.image_token_id] * processor.low_res_tokens + processor.image_end_ids
    rows, columns = [], []
    for row, length in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        out, where = [], []
        for token in row[:length]:
            where.append(len(out))
            out += block if token == processor.image_token_id else [token]
        rows.append(out)
        columns.append(where)
    width = max(map(len, rows))
    pad = processor.tokenizer.pad_token_id
    ours = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    own_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    place = torch.zeros_like(ids)
    for i, where in enumerate(columns):
        place[i, : len(where)] = torch.tensor(where)
    return ours, own_mask, place


def options_of(info: dict[str, Any], changes: dict[str, Any], smooth: bool = False) -> HighResOptions:
    """The recorded run-time attributes as one options object."""
    values = {key: info[key] for key in ("num_look_close", "num_token_look_close", "look_close_mode")}
    values.update(changes)
    per_scale = values.get("max_select_num_each_scale")
    budget: Any = values["num_token_look_close"]
    if budget is None:
        passes = values["num_look_close"]
        budget = "all" if passes == "all" else passes * sum(per_scale or info["budget"])
    return HighResOptions(
        budget=budget,
        per_scale=None if per_scale is None else tuple(per_scale),
        guided_by="prompt" if values["look_close_mode"] == "after_prompt" else "saliency",
        smooth=values.get("smooth_selection_prob", smooth),
    )


def recorded_options(goldens, case: dict[str, Any]) -> HighResOptions:
    info = goldens.manifest["models"][case["model"]]
    return options_of(info, case["set_attributes"], bool(case.get("smooth_selection_prob")))


def check_choice(case, selection, scores, recorded, regions, smooth, tolerance=None) -> None:
    """The choice: which pass took which patch, the probabilities, and the maps."""
    tolerance = tolerance or PROBS
    probs = [
        torch.stack(scale)
        for scale in zip(*score_maps(scores, selection.grids, regions=regions, smooth=smooth), strict=True)
    ]
    passes = [torch.stack(scale) for scale in zip(*selection.pass_maps(), strict=True)]
    for scale, (prob, taken) in enumerate(zip(probs, passes, strict=True)):
        torch.testing.assert_close(prob, recorded[f"selection_probs.{scale}"], **tolerance)
        assert torch.equal((taken > 0).long(), recorded[f"selection_maps.{scale}"].long())
        if f"pass_of_token.{scale}" in recorded:
            assert torch.equal(taken.long(), recorded[f"pass_of_token.{scale}"].long())
    expected = case.get("selected_per_iteration")
    if expected is not None:
        steps = range(1, len(expected) + 1)
        counts = [[(taken == step).flatten(1).sum(1).tolist() for taken in passes] for step in steps]
        assert counts == expected
        assert max(int(taken.max()) for taken in passes) <= len(expected)


@contextmanager
def watched(model):
    """Inputs of the language model's body and outputs of the prompt head, call by call."""
    seen: dict[str, list[Tensor]] = {"embeds": [], "masks": [], "prompts": []}

    def keep(module, args, kwargs) -> None:
        seen["embeds"].append(kwargs["inputs_embeds"].detach())
        seen["masks"].append(kwargs["attention_mask"])

    hooks = [model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)]
    head = getattr(model.model.projector, "top_down_prompt_head", None)
    if head is not None:
        hooks.append(
            head.register_forward_hook(lambda module, args, out: seen["prompts"].append(out.detach()))
        )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.kinds("encode_images_ps3")
@torch.no_grad()
def test_visual_tokens(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    name = vila_case["model"]
    images = vila_goldens.case(f"{name}/pixels")["images"]
    given = vila_goldens.raw_tensors(vila_goldens.case(f"{name}/encode_inputs"))
    index = vila_case["image_indices"]
    pixels = pixels_of(vila_goldens, processor, [images[i] for i in index])
    options = recorded_options(vila_goldens, vila_case)
    prompts = None if vila_case["prompt_indices"] is None else given["prompts"][vila_case["prompt_indices"]]
    options = replace(options, guided_by="saliency" if prompts is None else "prompt")
    if vila_case["num_look_close_argument"] == 0:
        options = replace(options, budget=0)
    regions = None
    if vila_case["gt_selection_maps"]:
        regions = Regions.from_maps(given["gt_selection_maps"][index])
    seen = model.model.vision_tower(
        pixels, prompts, options=options, regions=regions, layers=(model.config.select_layer,)
    )
    low = model.model.projector.project_low_res(seen.low.features[0])
    high, counts = model.model.project_high_res(low, seen.high, seen.selection, None)
    for i, part in enumerate(high.split(list(counts))):
        if vila_case["concat_low_high_res_features"]:
            torch.testing.assert_close(torch.cat([low[i], part]), recorded[f"features.{i}"], **FEATURES)
        else:
            torch.testing.assert_close(low[i], recorded[f"low_res_features.{i}"], **FEATURES)
            torch.testing.assert_close(part, recorded[f"high_res_features.{i}"], **FEATURES)
    if seen.selection is not None:
        check_choice(vila_case, seen.selection, seen.scores, recorded, regions, options.smooth)
        return
    # Nothing is chosen, but the published code scores all the same.
    tower = model.model.vision_tower
    seen_low = tower.encode_low_res(pixels)
    for scale, probs in enumerate(zip(*score_maps(tower.score(seen_low), seen_low.grids), strict=True)):
        torch.testing.assert_close(torch.stack(probs), recorded[f"selection_probs.{scale}"], **PROBS)
    assert vila_case.get("selected_per_iteration", []) == []


@pytest.mark.parametrize("normalised", [True, False], ids=["float", "uint8"])
@pytest.mark.kinds("generate")
@torch.no_grad()
def test_answers(vila_case, vila_goldens, load_recorded, normalised):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    inputs = vila_goldens.inputs_of(processor, vila_case["prompt_parts"], do_normalize=normalised)
    columns = inputs["input_ids"].shape[1]
    kept = vila_goldens.kept_columns(processor, inputs["input_ids"][0].tolist())
    assert inputs["input_ids"][0, kept].tolist() == recorded["input_ids"][0].tolist()
    options = recorded_options(vila_goldens, vila_case)
    regions = None
    if vila_case["gt_selection_map"]:
        given = vila_goldens.raw_tensors(vila_goldens.case(f"{vila_case['model']}/encode_inputs"))
        regions = Regions.from_maps(given["gt_selection_maps"][:1])
    call = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    call.update(high_res=options, regions=regions)
    with watched(model) as seen:
        output = model(**call, labels=torch.full_like(inputs["input_ids"], -100))
    embeds = seen["embeds"][-1]
    if "inputs_embeds" in recorded:  # the copied cases leave out what is large
        torch.testing.assert_close(embeds, recorded["inputs_embeds"], **FEATURES)
    if "labels" in recorded:
        assert torch.equal(output.labels, recorded["labels"])
        assert recorded["attention_mask"].bool().all()
    assert embeds.shape[1] == vila_case["expanded_length"]
    torch.testing.assert_close(output.logits[:, -1], recorded["last_position_logits"], **LOGITS)
    if "logits" in recorded:
        torch.testing.assert_close(
            output.logits[:, -recorded["logits"].shape[1] :], recorded["logits"], **LOGITS
        )
    if "top_down_prompts" in recorded:
        torch.testing.assert_close(seen["prompts"][0][:1], recorded["top_down_prompts"], **FEATURES)
        ends = first_turn_ends(
            recorded["input_ids"], torch.ones_like(recorded["input_ids"]), model.config.prompt_end_ids
        )
        assert torch.equal(ends, recorded["look_close_positions"])
    if "first_pass_inputs_embeds" in recorded:
        first = seen["embeds"][0]
        # Ours ends where the question does.
        rest = model.get_input_embeddings()(inputs["input_ids"][:, first.shape[1] :])
        torch.testing.assert_close(
            torch.cat([first, rest], dim=1), recorded["first_pass_inputs_embeds"], **FEATURES
        )
    tolerance = PROBS if normalised else PROBS_OF_UINT8
    check_choice(vila_case, output.looks, output.scores, recorded, regions, options.smooth, tolerance)
    answer = model.generate(**call, max_new_tokens=vila_case["max_new_tokens"])[:, columns:]
    assert torch.equal(answer, recorded["generated_ids"])
    assert (
        processor.tokenizer.decode(answer[0], skip_special_tokens=True).strip() == vila_case["generated_text"]
    )


def training_inputs(goldens, model, processor, case) -> tuple[dict[str, Any], Tensor]:
    """A recorded training batch as inputs of our model, and its labels in our columns."""
    recorded = goldens.raw_tensors(case)
    ids, mask, place = expand(processor, recorded["input_ids"], recorded["attention_mask"])
    labels = torch.full_like(ids, -100)
    real = recorded["attention_mask"].bool()
    row = torch.arange(len(ids))[:, None].expand_as(place)
    labels[row[real], place[real]] = recorded["labels"][real]
    pixels = pixels_of(
        goldens, processor, [f"{case['media_dir']}/{name}" for name in case["images_in_batch_order"]]
    )
    ends = torch.tensor(case["prompt_end_positions"])
    ends = place.gather(1, ends[:, None])[:, 0]
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "prompt_positions": ends}
    return inputs, labels


def recorded_maps(case) -> Tensor | None:
    described = case["gt_selection_maps"]
    if described is None:
        return None
    maps = torch.zeros(described["shape"])
    for sample, top, bottom, left, right in described["ones_in_boxes_sample_y0_y1_x0_x1"]:
        maps[sample, top:bottom, left:right] = 1
    return maps


@pytest.mark.kinds("training_batch")
def test_rows_of_training_batches(vila_case, vila_goldens, load_recorded):
    _, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    encode = ConversationEncoder(processor, published=True)
    width, pad = recorded["input_ids"].shape[1], processor.tokenizer.pad_token_id
    options = ReadOptions(media=vila_goldens.folder / vila_case["media_dir"])
    rows = list(read_rows(vila_goldens.folder / vila_case["dataset_file"], options))
    sizes = []
    for number, (row, instance) in enumerate(zip(rows, vila_case["instances"], strict=True)):
        encoded = encode(row.to_chat())
        kept = vila_goldens.kept_columns(processor, encoded.input_ids)
        ids, labels = ([values[i] for i in kept] for values in (encoded.input_ids, encoded.labels))
        assert (ids, labels) == (instance["input_ids"], instance["labels"])
        rest = width - len(kept)
        assert recorded["input_ids"][number].tolist() == ids + [pad] * rest
        assert recorded["labels"][number].tolist() == labels + [-100] * rest
        assert recorded["attention_mask"][number].tolist() == [1] * len(kept) + [0] * rest
        assert len(row.images) == instance["num_images"] == vila_case["num_images_per_sample"][number]
        own = [[height, width] for width, height in row.check_images()]
        assert own == (instance["original_image_sizes"] or [])
        sizes += own
    assert sizes == vila_case["original_image_sizes"]
    assert [image.name for row in rows for image in row.images] == vila_case["images_in_batch_order"]


@pytest.mark.kinds("training_batch")
@torch.no_grad()
def test_training_batches(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    ends = first_turn_ends(recorded["input_ids"], recorded["attention_mask"], model.config.prompt_end_ids)
    assert ends.tolist() == vila_case["prompt_end_positions"]
    inputs, _ = training_inputs(vila_goldens, model, processor, vila_case)
    info = vila_goldens.manifest["models"][vila_case["model"]]
    with watched(model) as seen:
        output = model(**inputs, high_res=options_of(info, {}))
    if "top_down_prompts" in recorded:
        looks = vila_case["num_images_per_sample"]
        first = [sum(looks[:i]) for i, count in enumerate(looks) if count]
        torch.testing.assert_close(seen["prompts"][0][first], recorded["top_down_prompts"], **FEATURES)
    maps = score_maps(output.scores, output.looks.grids)
    for scale, probs in enumerate(zip(*maps, strict=True)):
        torch.testing.assert_close(torch.stack(probs), recorded[f"selection_probs.{scale}"], **PROBS)


def published_selection_loss(
    scores: Tensor, grids, maps: Tensor, smooth: bool = False, regions=None
) -> Tensor:
    probs = [
        torch.stack(scale)
        for scale in zip(*score_maps(scores, grids, regions=regions, smooth=smooth), strict=True)
    ]
    bce, dice = selection_loss(probs, maps_to_targets(maps, list(grids[0])))
    return bce + dice


@pytest.mark.kinds("training_loss")
def test_losses_and_gradients(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    batch = vila_goldens.case(f"{vila_case['model']}/{vila_case['batch']}")
    inputs, labels = training_inputs(vila_goldens, model, processor, batch)
    maps = recorded_maps(batch)
    info = vila_goldens.manifest["models"][vila_case["model"]]
    losses = dict(vila_case["losses"])

    def lm_loss(regions=None, **changes: Any):
        output = model(**inputs, labels=labels, regions=regions, high_res=options_of(info, changes))
        return next_token_loss(output.logits, output.labels, None), output

    model.zero_grad()
    with watched(model) as seen:
        total, output = lm_loss()
    torch.testing.assert_close(total.item(), losses.pop("lm_loss"), **LOSS)
    real = int(seen["masks"][-1][0].sum())
    if "logits_sample0" in recorded:
        torch.testing.assert_close(
            output.logits[0, :real:4], recorded["logits_sample0"][: -(-real // 4)], **LOGITS
        )
    if maps is not None:
        chosen = published_selection_loss(output.scores, output.looks.grids, maps)
        torch.testing.assert_close(chosen.item(), losses.pop("selection_loss"), **LOSS)
        total = total + chosen
        torch.testing.assert_close(total.item(), losses.pop("total_weight_1"), **LOSS)
    total.backward()
    parameters = dict(model.named_parameters())
    for key in recorded:
        if key.startswith("grad/"):
            expected = recorded[key]
            parameter = parameters[our_name(key.removeprefix("grad/"))]
            # The published code adds unused parameters with weight zero; ours leaves them out.
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(grad, expected, **GRAD, msg=lambda text, key=key: f"{key}: {text}")
    with torch.no_grad():
        torch.testing.assert_close(
            lm_loss(num_look_close=1)[0].item(), losses.pop("lm_loss_num_look_close_1"), **LOSS
        )
        if maps is not None:
            check_other_settings(lm_loss, losses, maps)
    assert not losses, f"not compared: {sorted(losses)}"


def check_other_settings(lm_loss, losses: dict[str, float], maps: Tensor) -> None:
    """Teacher forcing and smoothing, which change both the choice and the probabilities that the loss
    sees."""
    regions = Regions.from_maps(maps)
    total, output = lm_loss(regions)
    total = total + 0.5 * published_selection_loss(output.scores, output.looks.grids, maps, regions=regions)
    torch.testing.assert_close(total.item(), losses.pop("total_weight_0.5_train_w_gt"), **LOSS)
    total, output = lm_loss(smooth_selection_prob=True)
    total = total + 2 * published_selection_loss(output.scores, output.looks.grids, maps, smooth=True)
    torch.testing.assert_close(total.item(), losses.pop("total_weight_2_smooth"), **LOSS)


def our_name(name: str) -> str:
    """Our name of a parameter of the published whole model."""
    from llava_compat.key_maps import split_full_name, to_ours

    ours = to_ours(*split_full_name(name))
    assert ours is not None
    return ours


@pytest.mark.kinds("embed_and_pack")
@torch.no_grad()
def test_padded_batches(vila_case, vila_goldens, load_recorded):
    model, processor = load_recorded(vila_case["model"])
    recorded = vila_goldens.tensors(vila_case)
    batch = vila_goldens.case(f"{vila_case['model']}/{vila_case['batch']}")
    inputs, labels = training_inputs(vila_goldens, model, processor, batch)
    info = vila_goldens.manifest["models"][vila_case["model"]]
    options = options_of(info, {"look_close_mode": "after_image"})
    with watched(model) as seen:
        output = model(**inputs, labels=labels, high_res=options)
    mask = recorded["attention_mask"].bool()
    assert torch.equal(seen["masks"][-1].bool(), mask)
    if "inputs_embeds" in recorded:
        torch.testing.assert_close(seen["embeds"][-1][mask], recorded["inputs_embeds"][mask], **FEATURES)
    assert torch.equal(output.labels, recorded["labels"])
    if "packed.labels" in recorded:
        check_packing(recorded, mask, output.labels)


def check_packing(recorded, mask: Tensor, labels: Tensor) -> None:
    """The published code adds one dummy token at the end, and takes the label of each row's first token."""
    packed = Packed.from_mask(mask)
    assert recorded["packed.attention_mask"].tolist() == [[1] * packed.positions.shape[1] + [0]]
    positions = torch.nn.functional.pad(packed.positions, (0, 1))
    assert torch.equal(positions, recorded["packed.position_ids"].long())
    ours = packed.pack(labels).masked_fill(packed.positions == 0, -100)
    assert torch.equal(torch.nn.functional.pad(ours, (0, 1), value=-100), recorded["packed.labels"])


NOT_COMPARED = {"truncated40.attention_mask", "truncated40.labels"}
"""Samples are cut between turns only, or refused."""


def test_every_recorded_field_is_compared(ledgers):
    """Of the cases that ran before this one."""
    assert set(ledgers["VILA-HD"].missing()) <= NOT_COMPARED
