"""Marks are read at full size and gone at a fifth of it, whatever the colours and the phases."""

import itertools

import numpy as np
import pytest
from PIL import Image

from vila_hd.scenes import COLOUR_PAIRS, COLOURS, TIERS, answers
from vila_hd.scenes.marks import PANEL_SIDES, PERIOD, draw_panel, ink_share

FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
SIDE = max(PANEL_SIDES)


def draw_sign(tier, answer, pair, phase, shift):
    """A plate with its panel on a grey ground; ``shift`` moves it against the grid of the smaller picture."""
    plate, ink = (COLOURS[name] for name in pair)
    picture = np.full((150, 150, 3), 128, np.uint8)
    x, y = shift
    picture[y + 8 : y + SIDE + 28, x + 8 : x + SIDE + 28] = plate
    panel = draw_panel(tier, answer, side=SIDE, plate=plate, ink=ink, phase=phase)
    picture[y + 18 : y + 18 + SIDE, x + 18 : x + 18 + SIDE] = panel
    return picture


def spectrum(picture, x, y, size):
    """Amplitudes of a square part per channel: blind to the phase of a pattern, not to the pattern."""
    part = picture[y : y + size, x : x + size].astype(np.float32)
    plain = np.abs(np.fft.fft2(part - part.mean((0, 1)), axes=(0, 1)))
    return (plain / (np.linalg.norm(plain) + 1e-6)).ravel()


def read_share(tier, *, smaller, seed=0):
    """Share of held-out signs read by a nearest-mean classifier, over colour pairs, phases and shifts."""
    rng = np.random.default_rng(seed)
    known = answers(tier)
    features = np.empty((2, len(known), len(COLOUR_PAIRS)), object)
    for half, number, pair in np.ndindex(features.shape):
        phase, shift = rng.integers(512, size=2), rng.integers(10, size=2)
        picture = draw_sign(tier, known[number], COLOUR_PAIRS[pair], tuple(phase), tuple(shift))
        x, y = shift + 18
        if smaller:
            picture = np.asarray(Image.fromarray(picture).resize((30, 30), Image.Resampling.BICUBIC))
            features[half, number, pair] = spectrum(picture, -(-x // 5), -(-y // 5), SIDE // 5 - 1)
        else:
            features[half, number, pair] = spectrum(picture, x + 8, y + 8, 75)
    right = 0
    for pair in range(len(COLOUR_PAIRS)):
        # The colours are known to the reader, as they are to a model.
        means = np.stack(list(features[0][:, pair]))
        for number in range(len(known)):
            right += int(np.argmax(means @ features[1, number, pair]) == number)
    return right / (len(known) * len(COLOUR_PAIRS))


@pytest.mark.parametrize("tier", TIERS)
def test_marks_are_read_at_full_size(tier):
    # Amplitudes do not tell 6 from 9, which is 6 turned round.
    assert read_share(tier, smaller=False) > (0.85 if tier == "digit" else 0.95)


@pytest.mark.parametrize("tier", TIERS)
def test_marks_are_gone_at_a_fifth_of_the_size(tier):
    chance = 1 / len(answers(tier))
    assert read_share(tier, smaller=True) < chance + 0.12


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "code"])
def test_nothing_is_left_of_a_pattern_away_from_its_edges(tier, resample):
    for answer, shift in itertools.product(answers(tier), range(PERIOD)):
        share = np.full((120, 120), 0.5, np.float32)
        panel = ink_share(tier, answer, side=SIDE, phase=(shift, 3 * shift))
        share[10 : 10 + SIDE, 10 + shift :][:, :SIDE] = panel
        small = np.asarray(Image.fromarray(share).resize((24, 24), resample))
        assert np.abs(small[7:-8, 7:-8] - 0.5).max() < 0.001, answer


@pytest.mark.parametrize("tier", ["shape", "digit", "letter"])
def test_next_to_nothing_is_left_of_a_figure(tier):
    for answer in answers(tier):
        share = np.full((120, 120), 0.5, np.float32)
        share[12 : 12 + SIDE, 13 : 13 + SIDE] = ink_share(tier, answer, side=SIDE, phase=(1, 2))
        small = np.asarray(Image.fromarray(share).resize((24, 24), Image.Resampling.BICUBIC))
        assert np.abs(small - 0.5).max() < 0.035, answer


@pytest.mark.parametrize("side", PANEL_SIDES)
def test_code_panels_of_one_sign_have_one_mean_color(side):
    plate, ink = COLOURS["yellow"], COLOURS["red"]
    means = [
        draw_panel("code", code, side=side, plate=plate, ink=ink, phase=(0, 0)).mean((0, 1))
        for code in answers("code")
    ]
    assert np.ptp(means, axis=0).max() < 1.0


@pytest.mark.parametrize("tier", TIERS)
def test_every_answer_looks_different(tier):
    plate, ink = COLOURS["red"], COLOURS["white"]
    panels = {
        draw_panel(tier, answer, side=75, plate=plate, ink=ink, phase=(0, 0)).tobytes()
        for answer in answers(tier)
    }
    assert len(panels) == len(answers(tier))
