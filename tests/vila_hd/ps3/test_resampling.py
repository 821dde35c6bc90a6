"""Resizing equals torch's own, and resized patches equal patches of the resized picture."""

import pytest
import torch
from torch.nn import functional as F

from vila_hd.ps3.resampling import Views, cut, scale_size


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pixels(height: int, width: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


SIZES = [
    ((60, 60), (24, 24)),
    ((61, 203), (28, 84)),
    ((20, 33), (56, 70)),
    ((300, 17), (30, 30)),
    ((90, 90), (10, 10)),
]


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_bicubic_equals_torch(size, out):
    picture = noise(3, *size)
    expected = F.interpolate(picture[None], size=out, mode="bicubic")[0]
    torch.testing.assert_close(Views(picture, "bicubic").resize(out), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize(("size", "out"), [((40, 40), (24, 24)), ((20, 33), (56, 70)), ((61, 103), (40, 84))])
def test_antialias_without_halvings_equals_torch(size, out):
    picture = noise(3, *size)
    expected = F.interpolate(picture[None], size=out, mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(Views(picture, "antialias").resize(out), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["bicubic", "antialias"])
def test_right_size_is_the_picture_itself(method):
    picture = pixels(32, 48)
    assert Views(picture, method).resize((32, 48)) is picture


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_short_floats_are_rounded_once_and_never_wide_as_a_whole(size, out):
    picture = noise(3, *size).bfloat16()
    resized = Views(picture, "bicubic").resize(out)
    expected = F.interpolate(picture[None].float(), size=out, mode="bicubic")[0]
    assert resized.dtype == torch.bfloat16
    torch.testing.assert_close(resized.float(), expected, atol=5e-5, rtol=2**-8)


@pytest.mark.parametrize("size", [(64, 96), (67, 97), (128, 256)])
def test_halvings_keep_places(size):
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    ramp = (rows / size[0] + 2 * columns / size[1])[None].repeat(3, 1, 1)
    out = Views(ramp, "antialias").resize((8, 12))
    expected = F.interpolate(ramp[None], size=(8, 12), mode="area")[0]
    torch.testing.assert_close(out[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=2e-2, rtol=0)


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("size", [(64, 96), (66, 98), (66, 100), (65, 97), (1000, 12)])
def test_integer_reductions_are_rounded_means(size, times):
    picture = pixels(*size)
    views = Views(picture, "antialias")
    views.resize((size[0] // times, size[1] // times))
    reduced = views._reduced(times)
    whole = picture.float()[:, : size[0] // times * times, : size[1] // times * times]
    mean = F.avg_pool2d(whole, times)
    assert reduced.dtype == torch.uint8
    assert (reduced[:, : mean.shape[1], : mean.shape[2]].float() - mean).abs().max() <= 0.5


@pytest.mark.parametrize("method", ["bicubic", "antialias"])
@pytest.mark.parametrize(
    ("size", "out"), [*SIZES, ((48, 64), (48, 64)), ((200, 120), (40, 24)), ((123, 457), (64, 200))]
)
@pytest.mark.parametrize("raw", [False, True])
def test_chosen_patches_equal_patches_of_the_resized_picture(method, size, out, raw):
    picture = pixels(*size) if raw else noise(3, *size)
    patch = 7 if out[0] % 7 == 0 else 4
    whole = cut(Views(picture, method).resize(out), patch)
    rows, columns = torch.meshgrid(torch.arange(whole.shape[0]), torch.arange(whole.shape[1]), indexing="ij")
    chosen = torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(0))[: rows.numel() // 4 + 1]
    rows, columns = rows.flatten()[chosen], columns.flatten()[chosen]
    patches = Views(picture, method).patches(out, rows, columns, patch)
    tolerance = 2e-4 if raw else 5e-5  # float pictures are resized by torch, patches by our own taps
    torch.testing.assert_close(patches, whole[rows, columns], atol=tolerance, rtol=0)


def test_autocast_does_not_reach_resizing():
    picture = pixels(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = Views(picture, "bicubic").resize((20, 20))
    assert torch.equal(inside, Views(picture, "bicubic").resize((20, 20)))


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((500, 500), 756, (756, 756)),
        ((2160, 3840), 768, (432, 768)),
        ((2160, 3840), 3840, (2160, 3840)),
        ((1000, 10), 756, (756, 28)),
    ],
)
def test_scale_sizes(size, scale, expected):
    low, patch = (256, 16) if scale % 256 == 0 else (378, 14)
    assert scale_size(size, scale, low_scale=low, patch=patch) == expected
