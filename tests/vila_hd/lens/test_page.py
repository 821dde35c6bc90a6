"""The page is one harmless, self-contained file that holds what was seen."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from vila_hd.lens.page import (
    _jpeg_url,
    _script_json,
    picture_data,
    plain_picture_data,
    render_page,
    render_viewer,
)

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and texts by element; complains about tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        place = self.open_tags[-1] if self.open_tags else ""
        self.texts[place] = self.texts.get(place, "") + data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements for key, value in attributes.items() if key == name]

    def image(self, element: str) -> Image.Image:
        (url,) = [attributes["src"] for tag, attributes in self.elements if attributes.get("id") == element]
        return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="lens-data">(.*?)</script>', text)[1])


@pytest.fixture
def look(picture, make_look):
    return make_look(picture.size, chosen={(0, 1, 1): 1, (1, 5, 7): 1, (1, 5, 8): 3})


@pytest.fixture
def render(picture, look, make_receipt):
    def call(question="What is it?", answer="A sign.", images=None, looks=None):
        looks = looks or [look]
        return render_page(
            images or [picture], looks, question=question, answer=answer, receipt=make_receipt(*looks)
        )

    return call


def test_the_page_parses_and_shows_question_answer_and_receipt(render):
    text = render()
    page = Page(text)
    assert page.texts["h1"] == "What is it?"
    assert "A sign." in page.texts["p"]
    assert "9 prompt + 2 new" in page.texts["td"]
    assert "{{" not in text


@pytest.mark.parametrize(
    "evil",
    [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\"'><!-- ]]>",
        "{{script}} {{data}} \\1 \\g<0>",
        "</title></style></h1>&amp;",
    ],
)
def test_any_question_and_answer_is_harmless(render, evil):
    usual, page = Page(render()), Page(render(question=evil, answer=evil))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in usual.elements]
    assert page.texts["h1"] == evil
    assert evil in page.texts["p"]
    assert page.texts["script"] == usual.texts["script"]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_no_data_can_end_the_script_element():
    value = {"text": "</script><!-- <script> & \u2028"}
    assert not set("<>&") & set(_script_json(value))
    assert json.loads(_script_json(value)) == value


def test_nothing_is_fetched_from_anywhere(render):
    text = render()
    page = Page(text)
    for url in page.attributes("src") + page.attributes("href"):
        assert url.startswith("data:")
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert "@import" not in text
    assert "url(" not in text


def test_only_the_pages_own_script_may_run(render):
    text = render()
    policy = next(
        a["content"] for _, a in Page(text).elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_data_hold_the_choice_and_the_scores_exactly(render, look):
    (picture,) = data_of(render())["pictures"]
    assert picture["scores"] == pytest.approx(look.scores.flatten().tolist(), abs=1e-4)
    for scale, pass_map in zip(picture["scales"], look.pass_maps, strict=True):
        passes = np.frombuffer(base64.b64decode(scale["passes"]), dtype=np.uint8)
        assert passes.reshape(scale["rows"], scale["columns"]).tolist() == pass_map.tolist()
    assert picture["scales"][1]["chosen"] == 2
    assert len(picture["scales"][1]["shades"]) == 1 + 3


def test_the_pictures_of_the_page_are_the_original_the_low_res_view_and_what_each_scale_saw(render, picture):
    page = Page(render())
    assert page.image("p0-original").size == picture.size
    difference = np.abs(np.asarray(page.image("p0-original")).astype(int) - np.asarray(picture).astype(int))
    assert difference.mean() < 4
    low_res = picture.resize((64, 64), Image.Resampling.BICUBIC)
    assert (np.asarray(page.image("p0-low")) == np.asarray(low_res)).all()
    coarse = np.asarray(picture.resize((96, 64), Image.Resampling.BICUBIC)).astype(int)[16:32, 16:32]
    assert np.abs(np.asarray(page.image("p0-scale0")).astype(int)[16:32, 16:32] - coarse).mean() < 4


def test_a_scale_that_is_the_picture_itself_is_not_stored_twice(render):
    text = render()
    assert data_of(text)["pictures"][0]["scales"][1]["image"] is None
    assert "p0-scale1" not in Page(text).attributes("id")


def test_a_scale_of_another_size_is_stored_sharp_only_where_it_was_chosen(make_picture, make_look, render):
    large = make_picture(960, 576)
    look = make_look(large.size, chosen={(1, 5, 7): 1})
    layer = np.asarray(Page(render(images=[large], looks=[look])).image("p0-scale1")).astype(int)
    seen = np.asarray(large.resize((480, 288), Image.Resampling.BICUBIC)).astype(int)
    patch = (slice(80, 96), slice(112, 128))
    assert np.abs(layer[patch] - seen[patch]).mean() < 4
    assert layer[200:, 300:].std(axis=(0, 1)).max() < seen[200:, 300:].std(axis=(0, 1)).max()


def test_several_pictures_have_their_own_ids(make_picture, make_look, render):
    pictures = [make_picture(480, 288), make_picture(288, 480, seed=1)]
    text = render(images=pictures, looks=[make_look(one.size) for one in pictures])
    ids = Page(text).attributes("id")
    assert len(ids) == len(set(ids))
    assert {"p0-original", "p1-original"} <= set(ids)
    assert [one["height"] for one in data_of(text)["pictures"]] == [288, 480]


def test_every_element_that_the_script_asks_for_exists(render):
    text = render()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    wanted = set(re.findall(r'\$\("([a-z-]+)"\)', script)) | {"lens-data"}
    assert len(wanted) > 20
    assert wanted <= set(Page(text).attributes("id"))


def test_controls_have_names_for_screen_readers(render):
    page = Page(render())
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") in ("slider", "application", "group"):
            assert attributes["aria-label"]


def test_scores_that_are_no_numbers_do_not_break_the_data(picture, make_look, render):
    scores = torch.tensor([[float("nan"), float("inf")], [0.5, 0.0]])
    data = data_of(render(looks=[make_look(picture.size, scores=scores)]))
    assert data["pictures"][0]["scores"][0] == 0.0


@pytest.mark.parametrize("limit", [200_000, 40_000])
def test_even_noise_becomes_a_jpeg_within_its_limit(limit):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    data = base64.b64decode(_jpeg_url(noise, limit).split(",", 1)[1])
    assert len(data) <= limit
    width, height = Image.open(io.BytesIO(data)).size
    assert width / height == pytest.approx(5 / 3, abs=0.02)


def test_a_picture_that_fits_easily_keeps_its_size_and_its_colour_resolution():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    data = base64.b64decode(_jpeg_url(Image.fromarray(stripes), 100_000).split(",", 1)[1])
    read = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(read - stripes).mean() < 12


def test_the_viewer_is_the_same_page_without_pictures():
    text = render_viewer()
    page = Page(text)
    assert "{{" not in text
    assert data_of(text) == {"pictures": []}
    assert [tag for tag, _ in page.elements if tag == "img"] == []
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"img-src 'self'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_a_picture_that_nothing_was_asked_about_needs_the_same_data(look):
    plain, known = plain_picture_data(640, 480), picture_data(look, [None] * len(look.scales))
    assert set(known) <= set(plain)
    assert (plain["width"], plain["height"], plain["scales"]) == (640, 480, [])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium browser")
def test_a_browser_runs_the_page(render, tmp_path):
    (tmp_path / "lens.html").write_text(render(question="</script><b>?"), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=8000", "--dump-dom", (tmp_path / "lens.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    page = Page(done.stdout)
    assert dict(page.elements)["html"]["class"] == "js"  # set once all pictures are read
    assert len([1 for tag, attributes in page.elements if attributes.get("class") == "card"]) == 3
    assert "Press N" in page.texts["p"] or "Tap the picture" in page.texts["p"]
