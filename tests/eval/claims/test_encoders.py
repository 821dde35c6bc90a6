"""Every encoder tells of the tokens in a sign's box, and of no others."""

import pytest
import torch

from eval.claims import encoders
from eval.claims.encoders import ENCODERS, Eye, box_means
from eval.claims.regions import shares
from vila_hd.options import HighResOptions
from vila_hd.ps3.modeling_ps3 import PS3VisionModel

PATCHES = {
    ("low resolution", 192): 0,
    ("AnyRes", 384): 576,
    ("AnyRes", 768): 2304,
    ("S2", 384): 576,
    ("S2", 768): 2304,
    ("PS3", 384): 576,
    ("PS3", 768): 2880,
    ("PS3 without high-res pre-training", 768): 2880,
}


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: f"{e.name} {e.side} {e.per_scale}")
def test_encoders_see_as_many_patches_as_they_say(encoder, towers, pictures):
    scene, pixels = pictures[0]
    vectors, patches = Eye(encoder, towers).see(scene, pixels)
    width = 128 * (len(encoder.choice.scales) if encoder.choice.kind == "s2" else 1)
    assert vectors.shape == (len(scene.objects), 2 * width)
    assert bool(torch.isfinite(vectors).all())
    shown = encoders.row(encoder, encoders.Seen([1.0, 0.0], patches))
    assert shown["patches"] == PATCHES.get((encoder.name, encoder.side), sum(encoder.per_scale or ()))
    assert shown["accuracy"] == 50.0


@torch.inference_mode()
def test_means_are_over_the_patches_that_touch_the_box(towers, pictures):
    scene, pixels = pictures[0]
    tower = PS3VisionModel.from_pretrained(towers).eval()
    options = HighResOptions(budget=2880, per_scale=(576, 2304), guided_by="saliency")
    seen = tower([pixels], options=options, layers=(encoders.LAYER,))
    vectors, patches = box_means(seen, shares(scene))
    assert patches == 2880
    features, flat = seen.high.features[0][0], 0
    for sign, (x1, y1, x2, y2) in enumerate(scene.boxes):
        inside, flat = [], 0
        for side in (24, 48):
            cell = 960 / side
            for row in range(side):
                for column in range(side):
                    left, top = column * cell, row * cell
                    if left < x2 and left + cell > x1 and top < y2 and top + cell > y1:
                        inside.append(flat)
                    flat += 1
        torch.testing.assert_close(vectors[sign, 128:], features[inside].mean(0))
    assert flat == len(features)


def test_every_encoder_is_a_line():
    rows = [encoders.row(encoder, encoders.Seen([1.0, 0.0], 576)) for encoder in ENCODERS]
    found = {line.name: line.points for line in encoders.lines(rows)}
    assert found["S2"] == ((144.0, 50.0), (576.0, 50.0))
    assert sum(map(len, found.values())) == len(ENCODERS)
