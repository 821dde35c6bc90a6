"""The reconstruction shows chosen patches as they were seen and everything else as blurred as it was."""

import numpy as np
import pytest
import torch
from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.receipt import empty_pass_maps
from vila_hd.selection_lens import reconstruction

BICUBIC = Image.Resampling.BICUBIC


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_a_chosen_fine_patch_is_the_original_and_its_neighbours_are_the_enlarged_low_res_view(
    picture, make_look
):
    result = pixels(reconstruction(picture, make_look(picture.size, chosen={(1, 5, 7): 1})))
    inside = np.zeros(result.shape[:2], dtype=bool)
    inside[5 * 16 : 6 * 16, 7 * 16 : 8 * 16] = True
    blurred = pixels(picture.resize((64, 64), BICUBIC).resize(picture.size, BICUBIC))
    assert (result[inside] == pixels(picture)[inside]).all()
    assert (result[~inside] == blurred[~inside]).all()
    assert np.abs(blurred - pixels(picture))[inside].mean() > 5  # the two really differ there


def test_a_chosen_coarse_patch_is_the_enlarged_coarse_view(picture, make_look):
    result = pixels(reconstruction(picture, make_look(picture.size, chosen={(0, 2, 4): 1})))
    coarse = pixels(picture.resize((96, 64), BICUBIC).resize(picture.size, BICUBIC))
    cell = (slice(2 * 72, 3 * 72), slice(4 * 80, 5 * 80))
    assert (result[cell] == coarse[cell]).all()
    assert np.abs(result[cell] - pixels(picture)[cell]).mean() > 5


def test_the_finest_scale_lies_on_top(picture, make_look):
    chosen = {(0, row, column): 1 for row in range(4) for column in range(6)}
    result = pixels(reconstruction(picture, make_look(picture.size, chosen={**chosen, (1, 0, 0): 2})))
    assert (result[:16, :16] == pixels(picture)[:16, :16]).all()
    assert (result[:16, 16:32] != pixels(picture)[:16, 16:32]).any()


def test_everything_chosen_gives_the_picture_and_nothing_chosen_the_low_res_view(picture, make_look):
    all_maps = tuple(torch.ones_like(one) for one in make_look(picture.size).pass_maps)
    assert (
        pixels(reconstruction(picture, make_look(picture.size, pass_maps=all_maps))) == pixels(picture)
    ).all()
    blurred = picture.resize((64, 64), BICUBIC).resize(picture.size, BICUBIC)
    assert (pixels(reconstruction(picture, make_look(picture.size))) == pixels(blurred)).all()


def test_published_towers_resize_without_antialiasing(picture, make_look):
    look = make_look(picture.size, resample="bicubic")
    floats = torch.from_numpy(pixels(picture)).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(floats, (64, 64), mode="bicubic", align_corners=False)
    small = Image.fromarray(small[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    result = pixels(reconstruction(picture, look))
    assert (result == pixels(small.resize(picture.size, BICUBIC))).all()
    assert (result != pixels(reconstruction(picture, make_look(picture.size)))).any()


def test_a_squashed_tower_view_comes_back_in_the_shape_of_the_picture(make_picture, make_look):
    wide = make_picture(640, 160)
    maps = empty_pass_maps([(30, 30)])
    maps[0][:, :15] = 1
    look = make_look(wide.size, scales=(480,), pass_maps=maps, processed_size=(480, 480))
    result = pixels(reconstruction(wide, look))
    assert result.shape == (120, 480, 3)  # no larger than the finest view
    expected = pixels(wide.resize((480, 480), BICUBIC).resize((480, 120), BICUBIC))
    assert (result[:, :240] == expected[:, :240]).all()
    assert (result[:, 240:] != expected[:, 240:]).any()


def test_a_picture_smaller_than_the_scales_keeps_its_size(make_picture, make_look):
    small = make_picture(60, 36)
    assert reconstruction(small, make_look(small.size)).size == (60, 36)


def test_other_modes_are_shown_as_rgb(picture, make_look):
    assert reconstruction(picture.convert("RGBA"), make_look(picture.size)).mode == "RGB"


def test_a_look_at_another_picture_is_refused_with_both_sizes(picture, make_look):
    with pytest.raises(VilaHDError, match=r"picture 1 is 480 x 288 px but its look is of 288 x 480 px"):
        reconstruction(picture, make_look((288, 480)))
