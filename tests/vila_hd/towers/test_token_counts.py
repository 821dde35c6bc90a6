"""Visual tokens of every way to see, against the numbers of the paper's tables (arXiv 2503.19903)."""

import pytest

from vila_hd.options import HighResOptions
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.testing import tiny_config, tiny_processor
from vila_hd.towers.choice import EncoderChoice

TRUNK = {"model_name": "vit_so400m_patch14_siglip_384", "num_hidden_layers": 27, "hidden_size": 1152}
SCALES = {"1.5K": [378, 756, 1512], "4K": [378, 756, 1512, 3780]}


def count(encoder=None, *, scales="1.5K", size=(4000, 4000), **options):
    vision = PS3VisionConfig(**TRUNK, ps3_scales=SCALES[scales], max_select_num=2560)
    processor = tiny_processor(tiny_config(vision_config=vision, encoder=encoder or EncoderChoice()))
    (found,) = processor.count_image_tokens([size], HighResOptions(**options))
    return found.low_res, found.high_res


def test_low_res():
    assert count(EncoderChoice(kind="low_res")) == (196, 0)


@pytest.mark.parametrize(("max_tiles", "tokens"), [(4, 784), (16, 3136), (100, 19600)])
def test_anyres_at_756_1512_and_3780(max_tiles, tokens):
    encoder = EncoderChoice(kind="anyres", max_tiles=max_tiles)
    assert count(encoder) == (196, tokens)
    assert count(encoder, budget=0) == (196, 0)


def test_anyres_of_other_pictures():
    encoder = EncoderChoice(kind="anyres", max_tiles=16)
    assert count(encoder, size=(2160, 3840)) == (196, 15 * 196)
    assert count(encoder, size=(200, 200)) == (196, 0)  # the first view shows it all


@pytest.mark.parametrize(
    ("scales", "output_scale", "tokens"),
    [
        ((378, 756), "largest", 729),
        ((378, 756, 1512), "largest", 2916),
        ((378, 1512, 3780), "largest", 18225),
        ((378, 756, 1512), "smallest", 196),
    ],
)
def test_s2_with_both_output_sizes(scales, output_scale, tokens):
    assert count(EncoderChoice(kind="s2", scales=scales, output_scale=output_scale)) == (tokens, 0)


@pytest.mark.parametrize(
    ("scales", "per_scale", "tokens"),
    [
        # The paper's budgets of its appendix C: patches at 756, 1512 and 3780 pixels.
        ("1.5K", (972, 3888), 1411),
        ("1.5K", (1944, 7776), 2626),
        ("1.5K", (2916, 11664), 3841),
        ("4K", (2048, 3072, 0), 1476),
        ("4K", (2048, 8192, 0), 2756),
        ("4K", (1536, 6144, 7680), 4036),
        ("4K", (1536, 6144, 23040), 7876),
    ],
)
def test_vila_hd(scales, per_scale, tokens):
    assert sum(count(scales=scales, per_scale=per_scale)) == tokens
