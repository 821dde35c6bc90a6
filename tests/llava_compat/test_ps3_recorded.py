"""Every recorded case of the reference, through the published interface.

By default the cases run that together cover every feature; ``-m "slow or not slow"`` runs them all, and
``--goldens FOLDER`` compares with complete tensors.
"""

import json

import pytest
import torch

from llava_compat.ps3 import PS3Model, PS3TextModel, PS3VisionModel
from vila_hd.ps3.embeddings import positions_at
from vila_hd.ps3.resampling import Views, cut

# The trunks' names are private to the recording: attention heads are the one size that no tensor shape tells.
HEADS = {"a_siglip3": 4, "b_siglip4": 3, "c_radio3": 4, "d_plain3": 2}
# Combined folders are read by all three: each class takes its part.
MODEL_OF = {"vision": PS3VisionModel, "encode_image": PS3Model, "text": PS3TextModel}
TOLERANCE = {
    "last_hidden_state": 3e-5,
    "hidden_states": 3e-5,
    "feature_maps": 3e-5,
    "selection_probs": 2e-6,
    "bottomup_selection_probs": 2e-6,
    "topdown_selection_probs": 2e-6,
    "pooled_output": 2e-5,
    "prompt": 2e-5,
    "selection_maps": 0.0,
    "pass_of_token": 0.0,
}
QUICK = {
    "a_siglip3": {
        "debug_low_res_only",
        "look1_last2",
        "wide_look2",
        "gt_int_prompt",
        "first_list_1_2",
        "pretrain_gt_pool_global_smooth",
        "encode_image_pretrain_text_prompt",
        "encode_image_first_list",
        "text",
    },
    "b_siglip4": {"lookall_prompt_last2", "head_tok22", "tok7", "pretrain_gt_pool_empty", "smooth_gt_tok"},
    "c_radio3": {"look2_prompt", "tall_all", "first1_all", "head_tok61", "pretrain_gt_pool"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"case", "debug_case"} & set(metafunc.fixturenames):
        return
    folder = metafunc.config.getoption("--goldens")
    cases = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cases"]
    if "debug_case" in metafunc.fixturenames:
        chosen = [case for case in cases if case["name"].endswith("/debug_low_res_only")]
        metafunc.parametrize("debug_case", chosen, ids=[case["name"] for case in chosen])
        return
    params = []
    for case in cases:
        checkpoint, name = case["name"].split("/")
        quick = name in QUICK.get(checkpoint, {name})
        params.append(pytest.param(case, id=case["name"], marks=() if quick else pytest.mark.slow))
    metafunc.parametrize("case", params)


@pytest.fixture(scope="module")
def load(goldens):
    """Load the model that a case calls, once per checkpoint, class and kind of budget rounding."""
    models = {}

    def get(case):
        model_class = MODEL_OF[case["mode"]]
        key = case["checkpoint"], case["impl"], model_class
        if key not in models:
            options = {}
            if model_class is not PS3TextModel:
                options["num_attention_heads"] = HEADS[case["checkpoint"]]
                options["budget_rounding"] = "floor" if case["impl"] == "0.1.3" else "remainder"
            models[key] = model_class.from_pretrained(goldens.checkpoint(case["checkpoint"]), **options)
        return models[key]

    return get


def run(model, case, inputs):
    if case["mode"] == "text":
        return model(inputs["text"])
    call = model.encode_image if case["mode"] == "encode_image" else model
    return call(**inputs, **case["call"])


def recorded_field(output, encoder, key: str) -> torch.Tensor:
    """The part of ``output`` that the recording calls ``key``."""
    field, _, index = key.partition(".")
    if field == "pass_of_token":
        return torch.stack([maps[int(index)] for maps in output.selection.pass_maps()])
    if field == "feature_maps":
        maps = encoder.format_features_into_feature_maps(output.last_hidden_state, output.selection_maps)
        return maps[int(index)]
    value = getattr(output, field)
    return value[int(index)] if index else value


def counts_per_pass(selection) -> list[list[list[int]]]:
    """Pass -> scale -> patches of each picture."""
    maps = selection.pass_maps()
    return [
        [[int((scale == step).sum()) for scale in scales] for scales in zip(*maps, strict=True)]
        for step in range(1, int(selection.passes.max()) + 1)
    ]


@torch.no_grad()
def test_recorded_case(case, goldens, load, monkeypatch, ledgers):
    model = load(case)
    encoder = getattr(model, "vision_model", None)
    for name, value in case["set_attributes"].items():
        monkeypatch.setattr(encoder, name, value)
    output = run(model, case, goldens.inputs(case))
    recorded = ledgers["PS3"].watch(case["name"], goldens.tensors(case["file"]))
    for key in recorded:
        field = key.split(".")[0]
        if field in ("debug", "native"):  # compared below; what another sort picks among ties
            continue
        expected = recorded[key]
        value = goldens.thin(key, recorded_field(output, encoder, key))
        assert value.shape == expected.shape, key
        assert (value.float() - expected.float()).abs().max() <= TOLERANCE[field], key
    said = ledgers["PS3"].watch(case["name"], case, ["selected_per_iteration"])
    if said.get("selected_per_iteration") is not None:
        selection = output.selection
        assert ([] if selection is None else counts_per_pass(selection)) == said["selected_per_iteration"]


def intermediates(encoder, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the recording calls ``debug``, of one square picture."""
    config, trunk = encoder.config, encoder.trunk
    patch = config.patch_size
    views = [Views(picture, "bicubic") for picture in pixels]
    found = {}
    for i, scale in enumerate(config.ps3_scales[:2]):
        found[f"resized_scale.{i}"] = torch.stack([view.resize((scale, scale)) for view in views])
    found["resized_scale.1"] = found["resized_scale.1"][:, :1]
    for i, scale in enumerate(config.ps3_scales):
        grid = scale // patch
        place = torch.arange(grid**2)
        table = positions_at(trunk.pos_embed, grid, place // grid, place % grid, crop=config.radio)
        found[f"pos_embed.{i}"] = table[None]
    cells = cut(found["resized_scale.0"][0], patch).flatten(0, 1)
    found["low_res_tokens"] = trunk.patch_embed.proj(cells)[None] + found["pos_embed.0"]
    found["selection_feature_proj"] = encoder.selection_feature_proj(encoder.encode_low_res(pixels).taps)
    if encoder.highres_selection_feature_module is not None:
        kernel, side = config.highres_selection_module_kernel_size, config.selection_image_size
        view = torch.stack([cut(view.resize((side, side)), kernel) for view in views])
        features = encoder.highres_selection_feature_module(view).permute(0, 3, 1, 2)
        found["conv_features_every_3rd"] = features[..., ::3, ::3]
    return found


@torch.no_grad()
def test_recorded_intermediates(debug_case, goldens, load, ledgers):
    encoder = load(debug_case).vision_model
    recorded = ledgers["PS3"].watch(debug_case["name"], goldens.tensors(debug_case["file"]))
    ours = intermediates(encoder, goldens.inputs(debug_case)["pixel_values"])
    for key in (key for key in recorded if key.startswith("debug.")):
        value = ours[key.removeprefix("debug.")]
        assert value.shape == recorded[key].shape, key
        assert (value - recorded[key]).abs().max() <= 3e-5, key


def test_every_recorded_output_field_is_compared(goldens):
    fields = {
        key.split(".")[0] for case in goldens.manifest["cases"] for key in goldens.tensors(case["file"])
    }
    assert fields - {"debug", "native"} <= set(TOLERANCE)


def test_the_recording_is_complete(goldens):
    assert len(goldens.manifest["cases"]) == 198
