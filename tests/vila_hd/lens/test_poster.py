"""The poster holds every panel in the right place, for any shape of picture and any choice."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from vila_hd.lens.poster import MARGIN, WIDTH, _needs_wide_font, _wrap, closest_place
from vila_hd.selection_lens import render_poster


def test_the_large_panel_shows_the_picture_with_its_chosen_patches_lit(make_look):
    white = Image.new("RGB", (480, 288), (255, 255, 255))
    chosen = {(1, row, column): 1 for row in range(6, 12) for column in range(10, 20)}
    poster = np.asarray(render_poster(white, make_look(white.size, chosen=chosen))).astype(int)
    side = WIDTH - 2 * MARGIN
    top = int(np.argmax((poster[:, MARGIN + side // 4] == [127, 127, 127]).all(axis=1)))  # the dimmed white
    lit = poster[top + side * 288 // 480 // 2, MARGIN + side // 2]
    assert top > 0
    assert lit.min() > 190


@pytest.mark.parametrize(
    "size", [(480, 288), (288, 480), (480, 96), (96, 480), (480, 480), (480, 16)], ids=str
)
@pytest.mark.parametrize("num_scales", [1, 2, 3])
def test_every_shape_of_picture_fits(make_picture, make_look, make_receipt, size, num_scales):
    scales = (96, 240, 480)[-num_scales:]
    look = make_look(size, scales=scales, chosen={(num_scales - 1, 0, 0): 1})
    poster = render_poster(make_picture(*size), look, question="Q?", answer="A.", receipt=make_receipt(look))
    assert poster.mode == "RGB"
    assert poster.width == WIDTH
    assert 400 < poster.height < 4000


def test_nothing_chosen_and_everything_chosen_make_different_posters(picture, make_look):
    none = make_look(picture.size)
    everything = make_look(picture.size, pass_maps=tuple(torch.ones_like(one) for one in none.pass_maps))
    posters = [render_poster(picture, look) for look in (none, everything)]
    assert posters[0].size != posters[1].size or ImageChops.difference(*posters).getbbox()


def test_question_answer_and_receipt_are_drawn(picture, make_look, make_receipt):
    look = make_look(picture.size, chosen={(1, 3, 3): 1})
    bare = render_poster(picture, look)
    full = render_poster(picture, look, question="Which?", answer="That.", receipt=make_receipt(look))
    assert full.height > bare.height + 100


def test_the_closest_place_lies_where_the_chosen_patches_are(make_look):
    chosen = {(1, row, column): 1 for row in range(12, 15) for column in range(20, 24)}
    look = make_look((480, 288), scores=torch.full((4, 4), 0.5), chosen={**chosen, (1, 0, 0): 1})
    left, top, right, bottom = closest_place(look, (480, 288))
    assert left <= 20 * 16 < 24 * 16 <= right
    assert top <= 12 * 16 < 15 * 16 <= bottom
    assert right - left < 480 / 2


def test_the_best_scored_place_is_shown_even_when_another_is_fuller(make_look):
    scores = torch.zeros(4, 4)
    scores[3, 0] = 1.0
    fuller = {(0, 20, column): 1 for column in range(250, 260)}
    look = make_look((4800, 2880), scales=(4800,), scores=scores, chosen={**fuller, (0, 170, 20): 1})
    left, top, right, bottom = closest_place(look, (4800, 2880))
    assert left <= 20 * 16 < right
    assert top <= 170 * 16 < bottom


def test_there_is_no_closest_place_when_nothing_was_chosen(make_look):
    assert closest_place(make_look((480, 288)), (480, 288)) is None


def test_the_closest_place_stays_inside_the_picture(make_look):
    left, top, right, bottom = closest_place(make_look((480, 288), chosen={(1, 17, 29): 1}), (480, 288))
    assert 0 <= left < right <= 480
    assert 0 <= top < bottom <= 288


def test_long_texts_are_wrapped_and_nothing_is_lost():
    class Letters:
        def getlength(self, text: str) -> float:
            return float(len(text))

    text = "what is written on the sign " + "x" * 57
    lines = _wrap(text, Letters(), 20)
    assert all(len(line) <= 20 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_font_with_more_letters_is_looked_for_only_when_needed():
    assert not _needs_wide_font("What is written on the sign?")
    assert _needs_wide_font("\u6807\u5fd7\u4e0a\u5199\u4e86\u4ec0\u4e48?")
