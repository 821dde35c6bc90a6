"""What the towers see that see whole pictures."""

import pytest
import torch

from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.testing import tiny_config, tiny_model, tiny_vision_config
from vila_hd.towers.choice import EncoderChoice
from vila_hd.towers.configuration_towers import LowResVisionConfig, trunk_values
from vila_hd.towers.modeling_towers import LowResVisionModel

ANYRES = EncoderChoice(kind="anyres", max_tiles=6)
S2 = EncoderChoice(kind="s2", scales=(32, 64))


def pictures(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def tower(encoder):
    return tiny_model(tiny_config(encoder=encoder)).model.vision_tower


@pytest.fixture(scope="module")
def plain():
    """The trunk of every tower here, alone."""
    return tower(EncoderChoice(kind="low_res"))


def seen_alone(plain, *squares):
    return plain.encode_low_res(list(squares)).features[0]


@torch.no_grad()
def test_every_tile_of_anyres_is_seen_like_a_picture_of_its_own(plain):
    anyres = tower(ANYRES)
    anyres.vision_model.trunk.load_state_dict(plain.vision_model.trunk.state_dict())
    (picture,) = pictures((64, 96))  # 2 x 3 tiles without any resizing
    seen = anyres([picture])
    assert seen.selection.grids == (((8, 12),),)
    tiles = [picture[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)]
    expected = seen_alone(plain, *tiles).view(2, 3, 4, 4, -1).transpose(1, 2).reshape(96, -1)
    torch.testing.assert_close(seen.high.features[0][0], expected)
    torch.testing.assert_close(seen.low.features[0], seen_alone(plain, picture))
    assert seen.selection.maps()[0][0].all()


@torch.no_grad()
def test_s2_stacks_the_scales_in_the_channels_of_one_map(plain):
    s2 = tower(S2)
    s2.vision_model.trunk.load_state_dict(plain.vision_model.trunk.state_dict())
    (picture,) = pictures((64, 64))
    map_88C = s2.encode_low_res([picture]).features[0].view(8, 8, -1)
    width = s2.config.hidden_size
    assert map_88C.shape[-1] == s2.config.feature_width == 2 * width
    small = seen_alone(plain, picture).view(4, 4, width)
    torch.testing.assert_close(map_88C[::2, 1::2, :width], small)
    corner = seen_alone(plain, picture[:, 32:, :32]).view(4, 4, width)
    torch.testing.assert_close(map_88C[4:, :4, width:], corner)


@torch.no_grad()
def test_s2_averages_larger_scales_over_the_smallest_grid(plain):
    s2 = tower(EncoderChoice(kind="s2", scales=(32, 64), output_scale="smallest"))
    s2.vision_model.trunk.load_state_dict(plain.vision_model.trunk.state_dict())
    (picture,) = pictures((64, 64))
    map_44C = s2.encode_low_res([picture]).features[0].view(4, 4, -1)
    corner = seen_alone(plain, picture[:, :32, :32]).view(2, 2, 2, 2, -1).mean((1, 3))
    torch.testing.assert_close(map_44C[:2, :2, s2.config.hidden_size :], corner)


@torch.no_grad()
@pytest.mark.parametrize("encoder", [EncoderChoice(kind="low_res"), ANYRES, S2], ids=lambda e: e.kind)
def test_a_batch_is_seen_like_its_pictures_one_by_one(encoder):
    model = tower(encoder)
    batch = pictures((64, 96), (20, 24), (200, 40))
    together = model(batch, look_index=torch.tensor([2, 0, 0, 1]))
    for look, number in enumerate([2, 0, 0, 1]):
        alone = model([batch[number]])
        torch.testing.assert_close(together.low.features[0][number], alone.low.features[0][0])
        if alone.high is not None:
            count = alone.high.features[0].shape[1]
            torch.testing.assert_close(together.high.features[0][look, :count], alone.high.features[0][0])
            assert not together.high.features[0][look, count:].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (HighResOptions(budget=8), "sees whole pictures"),
        (HighResOptions(per_scale=(1, 2)), "per_scale=.*leave it out"),
        (HighResOptions(max_scale=64), "max_scale=64"),
        (HighResOptions(smooth=True), "smooth=True"),
        (HighResOptions(guided_by="random"), "guided_by='random'"),
        (HighResOptions(guided_by="regions", regions=(((0, 0, 4, 4),),)), "guided_by='regions'"),
    ],
)
def test_options_of_a_choice_are_refused(options, words):
    model = tiny_model(tiny_config(encoder=ANYRES)).model
    with pytest.raises(VilaHDError, match=words):
        model.resolve_options(options)


@pytest.mark.parametrize("encoder", [EncoderChoice(kind="low_res"), S2], ids=lambda e: e.kind)
def test_nothing_is_there_beyond_the_first_view(encoder):
    model = tower(encoder)
    seen = model(pictures((40, 40)), options=HighResOptions(budget="all"))
    assert seen.selection is None
    assert seen.high is None
    with pytest.raises(VilaHDError, match="nothing beyond its first view"):
        model.select(seen.low, model.score(seen.low), options=HighResOptions())


def test_gradients_reach_the_trunk_through_tiles_and_scales():
    for encoder in (ANYRES, S2):
        model = tower(encoder).train()
        seen = model(pictures((64, 96)), layers=(-1,))
        far = seen.low.features[0] if seen.high is None else seen.high.features[0]
        far.square().mean().backward()
        assert all(p.grad.abs().sum() > 0 for p in model.vision_model.trunk.blocks.parameters())


def test_a_tower_alone_is_saved_and_loaded(tmp_path):
    config = LowResVisionConfig(**trunk_values(tiny_vision_config()), ps3_scales=[32])
    model = LowResVisionModel(config)
    model.save_pretrained(tmp_path)
    loaded = LowResVisionModel.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"kind": "anyres", "scales": (32, 64)},
            "scales=.*with the encoder 'anyres'",
        ),
        ({"kind": "ps3", "max_tiles": 4}, "max_tiles=4"),
        ({"kind": "anyres", "max_tiles": 0}, "at least one tile"),
        ({"kind": "s2", "scales": (32, 80)}, "multiples"),
        ({"kind": "s2", "scales": (16, 64)}, "the trunk sees 32 pixels"),
    ],
)
def test_impossible_encoders_are_refused(values, words):
    with pytest.raises(VilaHDError, match=words):
        EncoderChoice(**values).config(tiny_vision_config())
