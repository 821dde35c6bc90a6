import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from vila_hd.scenes import COLOUR_PAIRS, COLOURS, SceneConfig, make_scene, render

SMALL = SceneConfig(size=(1280, 720), num_objects=4)


def test_picture_has_the_size_of_the_scene():
    picture = render(make_scene(0, SMALL))
    assert picture.shape == (720, 1280, 3)
    assert picture.dtype == np.uint8


def test_default_picture_is_4k():
    assert make_scene(0).size == (3840, 2160)


def test_pictures_are_equal_in_another_process():
    digest = hashlib.sha256(render(make_scene(5, SMALL)).tobytes()).hexdigest()
    program = (
        "import hashlib; from vila_hd.scenes import SceneConfig, make_scene, render;"
        "scene = make_scene(5, SceneConfig(size=(1280, 720), num_objects=4));"
        "print(hashlib.sha256(render(scene).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest


def test_reused_buffer_gives_the_same_picture():
    scene = make_scene(6, SMALL)
    buffer = np.full((720, 1280, 3), 77, np.uint8)
    assert render(scene, buffer) is buffer
    np.testing.assert_array_equal(buffer, render(scene))


@pytest.mark.parametrize("out", [np.empty((9, 9, 3), np.uint8), np.empty((720, 1280, 3), np.float32)])
def test_wrong_buffer_is_refused(out):
    with pytest.raises(ValueError, match="use contiguous uint8"):
        render(make_scene(6, SMALL), out)


def test_frame_and_plate_have_their_colors():
    scene = make_scene(9, SMALL)
    picture = render(scene)
    for item in scene.objects:
        x1, y1, x2, _ = item.box
        middle = (x1 + x2) // 2
        assert tuple(picture[y1 + 3, middle]) == COLOURS[item.ink]
        assert tuple(picture[y1 + 10, middle]) == COLOURS[item.plate]


def test_only_signs_have_the_colors_of_plates():
    scene = make_scene(12, SceneConfig(size=(1920, 1080), num_objects=6))
    picture = render(scene).astype(np.int16)
    for x1, y1, x2, y2 in scene.boxes:
        picture[y1:y2, x1:x2] = 0
    for plate in {plate for plate, _ in COLOUR_PAIRS}:
        near = np.abs(picture - np.array(COLOURS[plate], np.int16)).max(axis=2) < 35
        assert near.mean() < 1e-4, plate


@pytest.mark.slow
def test_sign_colors_can_be_told_in_the_low_resolution_view():
    """Every sign is nearest, by its pixels at 256 x 256, to the mean colour of its own pair."""
    seen: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(6):
        scene = make_scene(seed, SceneConfig(tiers={"texture": 1.0}))
        small = np.asarray(
            Image.fromarray(render(scene)).resize((256, 256), Image.Resampling.BICUBIC), np.float32
        )
        for item in scene.objects:
            x, y = (item.box[0] + item.box[2]) / 30, (item.box[1] + item.box[3]) / 2 * 256 / 2160
            part = small[round(y) - 4 : round(y) + 4, round(x) - 2 : round(x) + 2]
            seen.setdefault((item.plate, item.ink), []).append(part.mean((0, 1)))
    means = {pair: np.mean(values, axis=0) for pair, values in seen.items()}
    for pair, values in seen.items():
        for value in values:
            assert min(means, key=lambda other: float(np.abs(means[other] - value).sum())) == pair


@pytest.mark.slow
def test_a_picture_takes_at_most_60_milliseconds():
    buffer = np.empty((2160, 3840, 3), np.uint8)
    for seed in range(40):
        render(make_scene(seed), buffer)
    spent = []
    for seed in range(20):
        start = time.process_time()
        render(make_scene(seed), buffer)
        spent.append(time.process_time() - start)
    assert np.median(spent) < 0.060
