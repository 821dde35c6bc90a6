import base64
import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from eval.launch import main
from eval.recognisable import check_sides, minimum_size
from eval.reduced import reduce_pictures
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_picture

NEEDED = {"q0": 1, "q1": 40, "q2": 96, "q3": 97, "q4": 48, "q5": 96}
"""Longest side that a picture of 96 x 64 must have for the fake model to be right."""


def read(picture_url):
    return Image.open(io.BytesIO(base64.b64decode(picture_url.split(",")[1])))


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ((True, True, True), "1"),
        ((False, True, True), "2"),
        ((True, False, True), "original"),
        ((True, True, False), None),
        ((False, False, False), None),
    ],
)
def test_the_minimum_is_right_with_all_larger_ones(right, expected):
    assert minimum_size(dict(zip(("1", "2", "original"), right, strict=True))) == expected


@pytest.mark.parametrize(("side", "size"), [(48, (48, 32)), (96, (96, 64)), (500, (96, 64)), (1, (1, 1))])
def test_pictures_are_reduced_to_fit_and_never_enlarged(choices, side, size):
    (picture,) = reduce_pictures(choices.example(0), side).load_images()
    assert picture.size == size
    if side >= 96:
        assert picture.tobytes() == tiny_picture(96, 64, seed=0).tobytes()


def test_every_question_is_asked_at_every_size(fake, choices, tmp_path):
    def reply(body):
        picture, text = body["messages"][0]["content"]
        index = int(text["text"].split()[1][0])
        side = max(read(picture["image_url"]["url"]).size)
        return fake.answer("ABCD"[index % 4] if side >= NEEDED[f"q{index}"] else "?")

    fake.reply = reply
    argv = ["recognisable", "openai:m", "choices", "--base-url", fake.base_url, "--out", str(tmp_path)]
    assert main([*argv, "--sides", "96", "24", "48", "--processes", "2"]) == 0
    found = [
        json.loads(line)
        for line in (tmp_path / "recognisable" / "choices.jsonl").read_text().split("\n")[:-1]
    ]
    assert {entry["uid"]: (entry["minimum"], entry["pixels"]) for entry in found} == {
        "q0": ("24", 24), "q1": ("48", 48), "q2": ("96", 96), "q3": (None, None), "q4": ("48", 48),
        "q5": ("96", 96),
    }  # fmt: skip
    summary, scores = json.loads((tmp_path / "report.json").read_text())["tables"][:2]
    (row,) = summary["rows"]
    assert (row["recognisable"], row["mean"], row["median"]) == (5, (24 + 48 + 48 + 96 + 96) / 5, 48)
    assert row["from 48"] == pytest.approx(100 / 3)
    assert row["from original"] == 0
    assert [entry["score"] for entry in scores["rows"]] == pytest.approx([100 * n / 6 for n in (1, 3, 5, 5)])
    picture = ElementTree.parse(tmp_path / "recognisable.svg").getroot()
    texts = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"24", "48", "96", "original"} <= texts
    asked = len(fake.requests)
    assert asked == 6 * 4

    assert main([*argv, "--sides", "24", "48", "96"]) == 0
    assert len(fake.requests) == asked


def test_our_model_is_asked_at_every_size(tiny_folder, choices, tmp_path):
    argv = ["recognisable", str(tiny_folder), "choices", "--out", str(tmp_path), "--threads", "1"]
    assert main([*argv, "--sides", "32", "--budget", "12", "--limit", "3"]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["tables"][1]["rows"]
    assert [row["condition"] for row in rows] == ["prompt-12@32", "prompt-12"]


@pytest.mark.parametrize("more", [["--budget", "0", "8"], ["--sides", "0"]])
def test_mistakes_are_one_line(more, choices, tmp_path, capsys):
    assert main(["recognisable", "nano", "choices", "--out", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_sides_are_sorted_and_counted_once():
    assert check_sides([756, 378, 756]) == (378, 756)
    with pytest.raises(VilaHDError, match="--sides -1"):
        check_sides([-1])
