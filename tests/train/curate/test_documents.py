"""Regions of pages: whole lines, or runs of words with their union box."""

import json
import sys
import types

import pytest
from PIL import Image

from train.curate.command import main
from train.curate.documents import DocumentOptions, draw_regions, make_document_row, parse_page
from train.curate.rows import PictureError, read_rows


def page(words=100):
    places = [(10 * (i % 10), 10 * (i // 10)) for i in range(words)]
    return {
        "image": "p.png",
        "words": [{"text": f"w{i}", "box": [x, y, x + 8, y + 8]} for i, (x, y) in enumerate(places)],
        "lines": [{"text": f"line {i}", "box": [0, 10 * i, 90, 10 * i + 8]} for i in range(10)],
    }


def test_runs_of_words_are_consecutive_and_disjoint():
    regions = make_document_row(page(), DocumentOptions(unit="words"))["regions"]
    assert len(regions) == 4
    seen = []
    for region in regions:
        numbers = [int(word[1:]) for word in region["caption"].split()]
        assert numbers == list(range(numbers[0], numbers[0] + 15))
        seen += numbers
        assert region["box"][1] == 10 * (numbers[0] // 10)
        assert region["box"][3] == 10 * (numbers[-1] // 10) + 8
        assert (region["box"][0], region["box"][2]) == (0, 98)  # a run crosses a line's end
    assert len(set(seen)) == len(seen)


def test_lines_keep_their_boxes():
    row = make_document_row(page(), DocumentOptions(regions=3))
    assert row["global_caption"] is None
    assert len(row["regions"]) == 3
    for region in row["regions"]:
        number = int(region["caption"].split()[1])
        assert region["box"] == [0, 10 * number, 90, 10 * number + 8]


def test_choice_depends_on_the_page_and_the_seed_alone():
    words = parse_page(page(), "words")
    one = draw_regions(words, "a.png", DocumentOptions(unit="words"))
    assert one == draw_regions(words, "a.png", DocumentOptions(unit="words"))
    assert one != draw_regions(words, "b.png", DocumentOptions(unit="words"))
    assert one != draw_regions(words, "a.png", DocumentOptions(unit="words", seed=1))


@pytest.mark.parametrize("words", [1, 14, 15, 16, 31])
def test_short_pages(words):
    regions = make_document_row(page(words), DocumentOptions(unit="words"))["regions"]
    assert len(regions) == max(1, words // 15)
    assert len(regions[0]["caption"].split()) == min(words, 15)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "p"}, "no list 'words'"),
        ({"image": "p", "words": [{"text": 1}]}, "expected objects with text and box"),
        ({"image": "p", "words": [{"text": "a", "box": [3, 0, 1, 1]}]}, "expected 0 <= x1 < x2"),
        ({"image": "p", "words": [{"text": " ", "box": [0, 0, 1, 1]}]}, "without any text"),
    ],
)
def test_broken_pages_are_named(row, message):
    with pytest.raises(PictureError, match=message):
        make_document_row(row, DocumentOptions(unit="words"))


def test_command_on_given_words(tmp_path, capsys):
    (tmp_path / "ocr.jsonl").write_text(json.dumps(page()) + "\n")
    command = ["documents", "--media", str(tmp_path), "--words", str(tmp_path / "ocr.jsonl")]
    assert main([*command, "--unit", "words", "--out", str(tmp_path / "out.jsonl")]) == 0
    assert "1 pages, 0 failed" in capsys.readouterr().out
    assert len(next(read_rows(tmp_path / "out.jsonl"))["regions"]) == 4


def test_command_with_an_ocr_package(tmp_path, monkeypatch):
    Image.new("RGB", (50, 40)).save(tmp_path / "p.png")
    found = {
        "text": ["", "Total", "12", "sum"], "left": [0, 5, 20, 5], "top": [0, 5, 5, 20],
        "width": [0, 10, 8, 6], "height": [0, 6, 7, 6],
        "block_num": [1, 1, 1, 1], "par_num": [1, 1, 1, 1], "line_num": [0, 1, 1, 2],
    }  # fmt: skip
    module = types.ModuleType("pytesseract")
    module.Output = types.SimpleNamespace(DICT="dict")
    module.TesseractError = OSError
    module.image_to_data = lambda picture, lang, output_type: found
    monkeypatch.setitem(sys.modules, "pytesseract", module)
    out = tmp_path / "out.jsonl"
    assert main(["documents", "--media", str(tmp_path), "--ocr", "tesseract", "--out", str(out)]) == 0
    regions = next(read_rows(out))["regions"]
    assert regions == [
        {"box": [5, 5, 28, 12], "caption": "Total 12"},
        {"box": [5, 20, 11, 26], "caption": "sum"},
    ]
