import json

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor

CASES = ["siglip_bicubic", "clip_bilinear", "defaults_nonsquare", "int_size_scalar_mean"]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", CASES)
def test_pixels_equal_the_reference(goldens, preprocess_goldens, name):
    case = next(case for case in preprocess_goldens["cases"] if case["processor"] == name)
    rows, columns = preprocess_goldens.get("strides", [1, 1, 1])[1:]
    processor = PS3ImageProcessor.from_pretrained(
        goldens.folder / preprocess_goldens["processors"][name]["dir"]
    )
    expected = goldens.tensors(case["file"])
    for picture in case["outputs"]:
        image = Image.open(goldens.folder / preprocess_goldens["images"][picture]["file"])
        (value,) = processor(image)["pixel_values"]
        difference = (value[:, ::rows, ::columns] - expected[picture]).abs().amax((1, 2))
        levels = difference * 255 * torch.tensor(processor.image_std).expand(3)
        assert float(levels.max()) <= rounding_of(preprocess_goldens), picture


def rounding_of(recorded) -> float:
    """Levels of 0..255 that may differ: none where Pillow resizes as the one that was recorded.

    Before 13, Pillow always resized rows first; since then, whichever is cheaper, and rounds in between.
    """
    then = recorded["library_versions"]["pillow"].split(".")[0]
    return 1e-3 if PIL.__version__.split(".")[0] == then else 3.001


@pytest.mark.parametrize("name", CASES)
def test_saved_file_holds_the_published_keys(tmp_path, goldens, preprocess_goldens, name):
    recorded = preprocess_goldens["processors"][name]
    PS3ImageProcessor(**recorded["constructor_args"]).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    published = json.loads((goldens.folder / recorded["dir"] / "preprocessor_config.json").read_text())
    assert {key: saved[key] for key in published} == published


def test_fit_reduces_the_longest_side_to_the_image_size_and_keeps_the_aspect_ratio():
    processor = PS3ImageProcessor(64, resize_mode="fit", do_normalize=False)
    features = processor([noise(90, 160), noise(500, 7), noise(1, 300)])
    assert [tuple(v.shape) for v in features["pixel_values"]] == [(3, 36, 64), (3, 64, 1), (3, 1, 64)]
    assert features["image_sizes"] == [(90, 160), (500, 7), (1, 300)]
    assert processor.resized_size(90, 160) == (36, 64)


@pytest.mark.parametrize("side", [48, 49, 4000])
def test_fit_never_enlarges(side):
    image, processor = noise(27, 48), PS3ImageProcessor(side, resize_mode="fit", do_normalize=False)
    (value,) = processor(image)["pixel_values"]
    assert torch.equal(value, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert processor.resized_size(27, 48) == (27, 48)


def test_normalised_output_is_the_raw_output_normalised():
    processor = PS3ImageProcessor(32, mean=0.5, std=0.25)
    image = noise(50, 40)
    raw = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"]
    value = processor(image, return_tensors="pt")["pixel_values"]
    assert raw.dtype == torch.uint8
    assert torch.allclose(value, (raw / 255 - 0.5) / 0.25, atol=1e-6)


def test_equal_shapes_are_stacked_and_unequal_ones_listed():
    squash, fit = PS3ImageProcessor(16), PS3ImageProcessor(16, resize_mode="fit")
    pictures = [noise(20, 30), noise(30, 20)]
    assert squash(pictures, return_tensors="pt")["pixel_values"].shape == (2, 3, 16, 16)
    listed = fit(pictures, return_tensors="pt")["pixel_values"]
    assert [tuple(v.shape) for v in listed] == [(3, 11, 16), (3, 16, 11)]


def test_array_tensor_and_picture_of_one_scene_agree():
    image, processor = noise(20, 30), PS3ImageProcessor(16)
    array = np.array(image)
    values = [
        processor(x)["pixel_values"][0] for x in (image, array, torch.from_numpy(array).permute(2, 0, 1))
    ]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def test_options_survive_saving(tmp_path):
    PS3ImageProcessor(40, mean=0.1, std=0.2, resize_mode="fit", do_normalize=False).save_pretrained(tmp_path)
    loaded = PS3ImageProcessor.from_pretrained(tmp_path)
    (value,) = loaded(noise(40, 60))["pixel_values"]
    assert (tuple(value.shape), value.dtype) == ((3, 27, 40), torch.uint8)
    assert (loaded.mean, loaded.image_std) == ([0.1] * 3, [0.2] * 3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "image_size=None"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": [1, 2, 3]}, r"image_size=\[1, 2, 3\]"),
        ({"image_size": [32, 48], "resize_mode": "fit"}, r"image_size=\(32, 48\)"),
        ({"image_size": 32, "size": {"shortest_edge": 48}}, "disagrees"),
        ({"image_size": 32, "interpolation": "nearest"}, "interpolation='nearest'"),
        ({"image_size": 32, "resize_mode": "stretch"}, "resize_mode='stretch'"),
        ({"image_size": 32, "mean": [0.5, 0.5]}, r"mean=\[0.5, 0.5\]"),
        ({"image_size": 32, "mean": 0.5, "image_mean": 0.4}, "disagrees"),
        ({"image_size": 32, "std": 0}, r"std=\[0.0"),
        ({"image_size": 32, "do_normalize": "no"}, "do_normalize='no'"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(options, named):
    with pytest.raises(VilaHDError, match=named) as caught:
        PS3ImageProcessor(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([], "empty"),
        ("photo.png", "photo.png"),
        ([None], "None"),
        (np.zeros((4, 4, 3), dtype=np.float32), "float32"),
        (np.zeros((4, 4, 5), dtype=np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "no pixels"),
        (Image.new("I;16", (4, 4)), "I;16"),
        (Image.new("F", (4, 4)), "8 bits"),
    ],
)
def test_what_is_not_a_picture_is_refused_in_one_line(images, named):
    with pytest.raises(VilaHDError, match=named) as caught:
        PS3ImageProcessor(8)(images)
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_one_line(tmp_path):
    noise(64, 64).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(VilaHDError, match="cannot be read"):
        PS3ImageProcessor(8)(Image.open(tmp_path / "cut.png"))


def test_an_unknown_call_option_is_refused():
    with pytest.raises(VilaHDError, match="do_pad"):
        PS3ImageProcessor(8)(noise(8, 8), do_pad=True)


@pytest.mark.parametrize(("size", "offset"), [((21, 8), (0, 6)), ((8, 21), (6, 0)), ((9, 9), (0, 0))])
def test_padded_pictures_sit_on_the_middle_of_a_square_of_the_mean_colour(size, offset):
    processor = PS3ImageProcessor(21, 0.5, 0.5, resize_mode="pad", do_normalize=False)
    picture = Image.new("RGB", size, (200, 10, 30))
    framed = processor.frame(picture)
    side = max(size)
    assert framed.size == (side, side)
    assert processor.frame_offset(picture.height, picture.width) == offset
    expected = np.full((side, side, 3), 127, dtype=np.uint8)
    expected[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = (200, 10, 30)
    assert np.array_equal(np.asarray(framed), expected)
    features = processor(picture, return_tensors="pt")
    assert features["image_sizes"].tolist() == [[side, side]]
    assert torch.equal(features["pixel_values"], processor(framed, return_tensors="pt")["pixel_values"])


def test_only_padding_frames_pictures():
    processor = PS3ImageProcessor(32, 0.5, 0.5, resize_mode="squash")
    picture = Image.new("RGB", (10, 20))
    assert processor.frame(picture) is picture
    assert processor.frame_offset(20, 10) == (0, 0)
