"""The tower: every shortcut equals the long way."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3 import PS3VisionConfig, PS3VisionModel, Regions
from vila_hd.ps3 import passes as passes_module
from vila_hd.testing import perturb

SIDE = 128


def tiny_config(**changes) -> PS3VisionConfig:
    values = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "ps3_scales": [32, 64, SIDE],
        "select_based_on_layer": [0, 2],
        "max_select_num": 20,
        "highres_selection_module_hidden_dim": 8,
        "highres_selection_module_out_dim": 8,
        "highres_selection_module_depth": 1,
        "highres_selection_module_kernel_size": 16,
        "selection_image_size": 64,
    }
    return PS3VisionConfig(**{**values, **changes})


def tiny_tower(**changes) -> PS3VisionModel:
    torch.manual_seed(0)
    tower = PS3VisionModel(tiny_config(**changes)).eval()
    perturb(tower)
    return tower


def pictures(count: int = 2, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def raw(*size: int) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def tower() -> PS3VisionModel:
    return tiny_tower()


@torch.no_grad()
def test_output_is_low_resolution_then_chosen_patches(tower):
    out = tower(pictures(), layers=(-2, -1))
    assert out.last_hidden_state.shape == (2, 16 + 20, 24)
    assert len(out.hidden_states) == 2
    assert torch.equal(out.hidden_states[0][:, :16], out.low.features[0])
    assert torch.equal(out.last_hidden_state[:, 16:], out.high.features[1])
    assert out.scores.shape == (2, 4, 4)
    assert out.scores.min() > 0
    assert out.scores.max() < 1


@torch.no_grad()
def test_high_res_pass_equals_one_sequence_with_a_block_mask(tower):
    """Low-resolution tokens never see the others; high-resolution tokens see both."""
    low = tower.encode_low_res(pictures())
    selection = tower.select(low, tower.score(low), options=HighResOptions())
    high = tower.encode_high_res(low, selection).features[0]

    encoder = tower.vision_model
    place = torch.arange(16)
    cells = encoder.square_cells(encoder.views_of(low), 32, 8)
    near = encoder.trunk.tokens(cells.flatten(1, 2), 4, place // 4, place % 4)
    far = encoder._chosen_tokens(low, selection, torch.arange(2)).view(2, 20, -1)
    x = torch.cat([near, far], dim=1)
    mask = torch.ones(36, 36, dtype=torch.bool)
    mask[:16, 16:] = False
    for block in encoder.trunk.blocks:
        heads = block.attn.heads
        q, k, v = block.attn.qkv(block.norm1(x)).view(2, 36, 3, heads, -1).permute(2, 0, 3, 1, 4)
        update = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + block.attn.proj(update)
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(x[:, :16], low.features[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x[:, 16:], high, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 45])
def test_passes_in_one_batch_equal_passes_in_turn(tower, monkeypatch, tokens):
    options = HighResOptions(budget=70)
    together = tower(pictures(), options=options).last_hidden_state
    monkeypatch.setattr(passes_module, "_BATCH_TOKENS", tokens)
    in_turn = tower(pictures(), options=options).last_hidden_state
    torch.testing.assert_close(together, in_turn, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_passes_do_not_see_each_other(tower):
    low = tower.encode_low_res(pictures())
    scores = tower.score(low)
    one = tower.select(low, scores, options=HighResOptions(budget=20))
    two = tower.select(low, scores, options=HighResOptions(budget=40))
    first = tower.encode_high_res(low, one).features[0]
    both = tower.encode_high_res(low, two).features[0]
    torch.testing.assert_close(both[two.passes == 1].view_as(first), first, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("budget", ["auto", 33, "all"])
def test_mixed_pictures_in_one_batch_equal_one_by_one(tower, budget):
    batch = [pictures(1, size)[0] for size in ((100, 120), (SIDE, SIDE), (60, 200), (30, 9))]
    options = HighResOptions(budget=budget)
    together = tower(batch, options=options, pool=True)
    for i, picture in enumerate(batch):
        alone = tower([picture], options=options, pool=True)
        count = alone.selection.index.shape[1]
        assert torch.equal(together.selection.index[i][:count], alone.selection.index[0])
        assert (together.selection.index[i][count:] == -1).all()
        torch.testing.assert_close(
            together.last_hidden_state[i, : 16 + count], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5
        )
        assert not together.last_hidden_state[i, 16 + count :].any()
        torch.testing.assert_close(together.pooled_output[i], alone.pooled_output[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_looks_share_the_low_resolution_pass(tower):
    prompt = torch.randn(3, 24, generator=torch.Generator().manual_seed(3))
    look_index = torch.tensor([1, 0, 1])
    together = tower(pictures(), prompt, look_index=look_index)
    for i, b in enumerate(look_index.tolist()):
        alone = tower(pictures()[b : b + 1], prompt[i : i + 1])
        assert torch.equal(together.selection.index[i], alone.selection.index[0])
        torch.testing.assert_close(
            together.last_hidden_state[i], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_later_questions_reuse_what_the_picture_gave(tower):
    low = tower.encode_low_res(pictures())
    prompt = torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    tower.score(low)
    assert torch.equal(tower.score(low, prompt), tower.score(tower.encode_low_res(pictures()), prompt))


@torch.no_grad()
@pytest.mark.parametrize("resample", ["bicubic", "antialias"])
def test_raw_pixels_equal_normalised_floats(resample):
    tower = tiny_tower(resample=resample, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    # Every size is met without halvings, whose means are rounded for raw pixels.
    picture = raw(60, 60) if resample == "antialias" else raw(200, 150)
    config = tower.config
    mean, std = torch.tensor(config.image_mean)[:, None, None], torch.tensor(config.image_std)[:, None, None]
    floats = (picture.float() / 255 - mean) / std
    options = HighResOptions(budget=20, max_scale=64 if resample == "antialias" else None)
    a, b = tower([picture], options=options), tower([floats], options=options)
    assert torch.equal(a.selection.index, b.selection.index)
    torch.testing.assert_close(a.last_hidden_state, b.last_hidden_state, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_budget_zero_is_the_low_resolution_pass(tower):
    out = tower(pictures(), options=HighResOptions(budget=0), pool=True)
    assert out.selection is None
    assert torch.equal(out.last_hidden_state, out.low.features[0])
    assert torch.equal(out.pooled_output, out.low.pooled)


@torch.no_grad()
@pytest.mark.parametrize("budget", ["all", 10**6])
def test_all_patches_of_all_scales(tower, budget):
    out = tower(pictures(1), options=HighResOptions(budget=budget))
    assert out.selection.index[0].tolist() == list(range(64 + 256))


@torch.no_grad()
def test_max_scale_and_split_decide_the_scales(tower):
    counts = tower(pictures(1), options=HighResOptions(budget=30, max_scale=64)).selection.counts()
    assert counts.tolist() == [[30, 0]]
    counts = tower(pictures(1), options=HighResOptions(per_scale=(5, 7))).selection.counts()
    assert counts.tolist() == [[5, 7]]


@torch.no_grad()
def test_guides_decide_the_choice(tower):
    prompt = torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    plain = tower(pictures())
    guided = tower(pictures(), prompt)
    ignored = tower(pictures(), prompt, options=HighResOptions(guided_by="saliency"))
    both = tower(pictures(), prompt, saliency=True)
    assert torch.equal(guided.scores, guided.prompt_scores)
    assert guided.saliency_scores is None
    assert torch.equal(ignored.selection.index, plain.selection.index)
    assert torch.equal(both.saliency_scores, plain.scores)
    assert not torch.equal(guided.scores, plain.scores)


@torch.no_grad()
def test_prompt_may_be_made_from_the_low_resolution_pass(tower):
    made = tower(pictures(), lambda low: low.features[0][:, 0])
    given = tower(pictures(), tower.encode_low_res(pictures()).features[0][:, 0])
    assert torch.equal(made.scores, given.scores)


@torch.no_grad()
def test_regions_are_chosen_first_and_pooled_alone(tower):
    boxes = Regions.from_boxes([torch.tensor([[0.0, 0.0, 0.12, 0.12]]), torch.tensor([[0.5, 0.5, 0.6, 0.6]])])
    out = tower(pictures(), regions=boxes, pool=True, pool_regions=boxes)
    first, second = out.selection.maps()
    assert first[0][0, 0]
    assert first[1][:2, :2].all()
    assert second[0][4, 4]
    # Pooling reads only the region: what lies elsewhere does not matter.
    low = tower.encode_low_res(pictures())
    high = tower.encode_high_res(low, out.selection, pool_regions=boxes)
    torch.testing.assert_close(high.pooled, out.pooled_output)
    assert not torch.allclose(out.pooled_output, tower(pictures(), regions=boxes, pool=True).pooled_output)


@torch.no_grad()
def test_score_maps_are_returned_on_demand(tower):
    out = tower(pictures(), options=HighResOptions(return_maps=True))
    assert [entry.shape for entry in out.score_maps[0]] == [(8, 8), (16, 16)]
    assert tower(pictures()).score_maps is None


@torch.no_grad()
def test_blocks_beyond_the_wanted_layer_do_not_run(tower, monkeypatch):
    low = tower.encode_low_res(pictures())
    selection = tower.select(low, tower.score(low), options=HighResOptions())

    def refuse(*_args, **_kwargs):
        raise AssertionError("the last block ran")

    expected = tower.encode_high_res(low, selection, layers=(0, 1)).features
    monkeypatch.setattr(tower.vision_model.trunk.blocks[-1], "forward", refuse)
    again = tower.encode_high_res(low, selection, layers=(1,)).features
    torch.testing.assert_close(again[0], expected[1])
    tower.encode_low_res(pictures(), layers=(-2,), keep_cache=False, taps=False)


@torch.no_grad()
@pytest.mark.parametrize("reads", [True, False])
def test_high_resolution_reads_low_resolution_unless_told_not_to(reads):
    tower = tiny_tower(reads_low_res=reads)
    low = tower.encode_low_res(pictures())
    selection = tower.select(low, tower.score(low), options=HighResOptions())
    expected = tower.encode_high_res(low, selection).features[0]
    low.cache = [(key + 1, value + 1) for key, value in low.cache]
    changed = not torch.equal(tower.encode_high_res(low, selection).features[0], expected)
    assert changed == reads


@torch.no_grad()
def test_kept_layers_are_not_overwritten(tower):
    low = tower.encode_low_res(pictures(), layers=(0, 1, 2))
    for i, layer in enumerate((0, 1, 2)):
        alone = tower.encode_low_res(pictures(), layers=(layer,), keep_cache=False, taps=False)
        torch.testing.assert_close(low.features[i], alone.features[0])


def test_gradients_do_not_change_the_result(tower):
    with_gradients = tower(pictures(), options=HighResOptions(budget=33), pool=True)
    with torch.no_grad():
        without = tower(pictures(), options=HighResOptions(budget=33), pool=True)
    for name in ("last_hidden_state", "pooled_output", "scores"):
        torch.testing.assert_close(with_gradients[name], without[name], atol=1e-5, rtol=1e-5)


def gradients(tower: PS3VisionModel) -> dict[str, Tensor]:
    tower.zero_grad()
    boxes = Regions.from_boxes([torch.tensor([[0.1, 0.1, 0.3, 0.3]])] * 3)
    out = tower(
        pictures(),
        torch.randn(3, 24, generator=torch.Generator().manual_seed(3)),
        look_index=torch.tensor([0, 1, 1]),
        pool=True,
        pool_regions=boxes,
        saliency=True,
        layers=(),
    )
    (out.pooled_output.sum() + out.scores.sum() + out.saliency_scores.sum() + out.low.pooled.sum()).backward()
    return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


def test_every_parameter_learns_and_checkpointing_changes_nothing():
    tower = tiny_tower().train()
    plain = gradients(tower)
    assert plain.keys() == dict(tower.named_parameters()).keys()
    tower.gradient_checkpointing_enable()
    checkpointed = gradients(tower)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    tower = tiny_tower()
    expected = tower(pictures(), options=HighResOptions(budget="all")).last_hidden_state
    half = tiny_tower().to(dtype)
    found = half(pictures().to(dtype), options=HighResOptions(budget="all")).last_hidden_state
    assert found.dtype == dtype
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@torch.no_grad()
def test_raw_pixels_work_in_bfloat16():
    out = tiny_tower(resample="antialias", residual_grid_size=4).to(torch.bfloat16)([raw(300, 500)])
    assert out.last_hidden_state.dtype == torch.bfloat16
    assert torch.isfinite(out.last_hidden_state).all()


@pytest.mark.slow
@torch.no_grad()
def test_compiling_does_not_break_it(tower):
    compiled = torch.compile(tower, backend="eager")
    torch.testing.assert_close(
        compiled(pictures()).last_hidden_state, tower(pictures()).last_hidden_state, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(tower, implementation):
    other = PS3VisionModel._from_config(tower.config, attn_implementation=implementation).eval()
    other.load_state_dict(tower.state_dict())
    torch.testing.assert_close(
        other(pictures()).last_hidden_state, tower(pictures()).last_hidden_state, atol=1e-5, rtol=1e-5
    )


def test_published_tensor_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in tiny_tower().named_parameters()}
    expected = {
        "vision_model.trunk.pos_embed": (1, 16, 24),
        "vision_model.trunk.patch_embed.proj.weight": (24, 3, 8, 8),
        "vision_model.trunk.blocks.0.attn.qkv.weight": (72, 24),
        "vision_model.trunk.blocks.0.mlp.fc1.weight": (40, 24),
        "vision_model.trunk.norm.weight": (24,),
        "vision_model.trunk.attn_pool.latent": (1, 1, 24),
        "vision_model.trunk.attn_pool.kv.weight": (48, 24),
        "vision_model.selection_feature_proj.fc1.weight": (48, 48),
        "vision_model.selection_feature_proj.norm.weight": (48,),
        "vision_model.selection_feature_proj.fc2.weight": (48, 48),
        "vision_model.prior_prompt": (24,),
        "vision_model.pos_emb_residual.1": (1, 256, 24),
        "vision_model.highres_selection_feature_module.stem.0.weight": (8, 3, 16, 16),
        "vision_model.highres_selection_feature_module.stem.1.weight": (8,),
        "vision_model.highres_selection_feature_module.blocks.0.weight": (8,),
        "vision_model.highres_selection_feature_module.blocks.0.conv_dw.weight": (8, 1, 7, 7),
        "vision_model.highres_selection_feature_module.out_proj.weight": (8, 8, 1, 1),
        "vision_model.prompt_proj_for_highres.weight": (16, 24),
    }
    assert {name: shapes.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tower: tower(torch.zeros(3, 8, 8)), r"\(3, 8, 8\)"),
        (lambda tower: tower([torch.zeros(1, 8, 8)]), r"\(1, 8, 8\)"),
        (lambda tower: tower([]), "no picture"),
        (lambda tower: tower([torch.zeros(3, 8, 8, dtype=torch.int32)]), "int32"),
        (lambda tower: tower(pictures(), layers=(3,)), "3 blocks"),
        (lambda tower: tower(pictures(), torch.zeros(3, 24)), "3 looks for 2 pictures"),
        (
            lambda tower: tower(pictures(), options=HighResOptions(max_scale=99)),
            "max_scale=99: use one of 64, 128",
        ),
        (lambda tower: tower(pictures(), options=HighResOptions(per_scale=(1,))), "use 2 numbers"),
        (
            lambda tower: tower(pictures(), regions=Regions.from_boxes([torch.zeros(0, 4)])),
            "1 regions for 2 looks",
        ),
        (lambda tower: tower(torch.full((1, 3, 64, 64), float("nan"))), "NaN"),
    ],
)
def test_bad_input_is_named(tower, call, message):
    with pytest.raises(VilaHDError, match=message), torch.no_grad():
        call(tower)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ps3_scales": [32]}, r"ps3_scales=\[32\]"),
        ({"resample": "nearest"}, "resample='nearest'"),
        ({"budget_rounding": "up"}, "budget_rounding='up'"),
        ({"max_select_num_each_scale": [1]}, "use 2 numbers"),
        ({"select_based_on_layer": [0, 3]}, "3 blocks"),
    ],
)
def test_bad_config_values_are_named(changes, message):
    with pytest.raises(VilaHDError, match=message):
        tiny_config(**changes)


def test_sizes_that_do_not_fit_are_named_when_the_tower_is_built():
    with pytest.raises(VilaHDError, match="multiple of patch_size=8"):
        PS3VisionModel(tiny_config(ps3_scales=[30, 64]))
    with pytest.raises(VilaHDError, match="num_attention_heads=5"):
        PS3VisionModel(tiny_config(num_attention_heads=5))
