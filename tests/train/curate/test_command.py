"""From a folder of pictures to what training reads, through the command line, with real pipelines."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from llava_compat.data import ReadOptions
from llava_compat.data import read_rows as llava_rows
from train.curate import captioners
from train.curate.command import main
from train.curate.masks import MaskGenerator, MaskOptions
from train.curate.rows import PictureError, RowFile, read_rows, run_jobs
from train.data.regions import RealRegionDataset
from train.region_config import RegionDataConfig, RegionSource
from vila_hd.errors import VilaHDError


@pytest.fixture
def media(tmp_path):
    folder = tmp_path / "media"
    (folder / "a").mkdir(parents=True)
    for i, name in enumerate(["a/one.png", "two.jpg", "zed.png"]):
        picture = Image.new("RGB", (160 + 20 * i, 120), (20, 60, 90))
        ImageDraw.Draw(picture).rectangle((20, 20, 60 + 10 * i, 70), fill=(240, 200, 10))
        picture.save(folder / name)
    return folder


def sam_arguments(folder):
    return ["--sam", folder, "--points-per-side", "3", "--pred-iou", "-10", "--stability", "0"]


class Fixed:
    """A captioner that says what it is shown."""

    def __init__(self, *args, **options):
        self.calls = []

    def __call__(self, pictures, prompt):
        self.calls.append([picture.size for picture in pictures])
        return f"{len(pictures)} pictures, the last of {pictures[-1].size}"


def test_masks_come_from_the_real_pipeline(sam_folder, media):
    options = MaskOptions(model=sam_folder, points_per_side=3, pred_iou=-10.0, stability=0.0, longest_side=80)
    masks = MaskGenerator(options)(Image.open(media / "zed.png").convert("RGB"))
    assert masks
    for mask in masks:
        assert mask.size == (48, 80)  # of 200 x 120, made smaller
        assert mask.dense().shape == mask.size
        assert sum(mask.counts) == 48 * 80


def test_from_pictures_to_training_rows(sam_folder, media, tmp_path, monkeypatch, capsys):
    proposed, captioned = tmp_path / "boxes.jsonl", tmp_path / "rows.jsonl"
    command = ["propose", "--media", str(media), "--out", str(proposed), *sam_arguments(sam_folder)]
    assert main([*command, "--max-failed", "0"]) == 0
    rows = list(read_rows(proposed))
    assert [row["image"] for row in rows] == ["a/one.png", "two.jpg", "zed.png"]
    for row in rows:
        boxes = np.array([region["box"] for region in row["regions"]])
        assert 1 <= len(boxes) <= 4
        assert (boxes[:, 2:] <= np.array(row["size"])).all()
        scores = [region["score"] for region in row["regions"]]
        assert scores == sorted(scores, reverse=True)
    fixed = Fixed()
    monkeypatch.setattr(captioners, "PipelineCaptioner", lambda *args, **options: fixed)
    command = ["caption", str(proposed), "--media", str(media), "--out", str(captioned), "--model", "any"]
    assert main(command) == 0
    assert len(fixed.calls) == sum(len(row["regions"]) + 1 for row in rows)
    first = fixed.calls[0]
    x1, y1, x2, y2 = rows[0]["regions"][0]["box"]
    assert first == [(160, 120), (x2 - x1, y2 - y1)]
    shards = tmp_path / "shards"
    assert (
        main(["pack", str(captioned), "--media", str(media), "--out", str(shards), "--per-shard", "2"]) == 0
    )
    assert "3 samples in 2 shards" in capsys.readouterr().out
    for path in (shards, captioned):
        source = RegionSource(name="s", path=str(path), media=media)
        dataset = RealRegionDataset(
            RegionDataConfig(sources=(source,)), rows=3, seed=0, side=64, items_per_picture=4
        )
        assert sorted(len(dataset[i].captions) for i in range(3)) == sorted(
            len(row["regions"]) for row in rows
        )


class Asking:
    """A captioner that asks back."""

    def __init__(self, *args, **options):
        pass

    def __call__(self, pictures, prompt):
        assert not pictures
        return "What about " + prompt.rsplit("Caption: ", 1)[1] + "?"


def test_questions_become_rows_that_selection_reads(media, tmp_path, monkeypatch):
    regions = [{"box": [10 * i, 5, 10 * i + 20, 30], "caption": f"sign {i}"} for i in range(3)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "asked.jsonl"
    rows = [{"image": name, "regions": regions} for name in ("a/one.png", "two.jpg", "zed.png")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(captioners, "PipelineCaptioner", Asking)
    assert main(["questions", str(source), "--out", str(out), "--model", "any"]) == 0
    found = list(llava_rows(out, ReadOptions(media=media)))
    assert len(found) == 3
    for row in found:
        number = int(row.id[-1])
        assert row.boxes == (((10.0 * number, 5.0, 10.0 * number + 20, 30.0),),)
        question, answer = row.messages
        assert question.content[-1] == f"What about sign {number}?"
        assert answer.content == (f"sign {number}",)
    assert main(["questions", str(source), "--out", str(out), "--model", "any", "--prompt", "ask"]) == 2


def test_packing_takes_pictures_of_a_size(media, tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    rows = [
        {"image": name, "global_caption": "x", "regions": []} for name in ("a/one.png", "two.jpg", "zed.png")
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["pack", str(source), "--media", str(media), "--out", str(tmp_path / "out")]
    assert main([*command, "--min-side", "170", "--max-side", "199"]) == 0
    assert "1 samples in 1 shards" in capsys.readouterr().out


def test_captions_come_from_the_real_pipeline(vlm_folder):
    captioner = captioners.PipelineCaptioner(vlm_folder, max_new_tokens=6)
    pictures = [Image.new("RGB", (50, 40), "red"), Image.new("RGB", (20, 20), "blue")]
    text = captioner(pictures, "what is it?")
    assert text
    assert "what is it?" not in text
    assert captioner(pictures, "what is it?") == text


def test_interrupted_job_goes_on(tmp_path):
    out = tmp_path / "rows.jsonl"
    rows = [{"image": f"{i}.png"} for i in range(6)]
    seen = []

    def work(row, stop="3.png"):
        if row["image"] == stop:
            raise KeyboardInterrupt
        seen.append(row["image"])
        return {**row, "ok": True}

    with pytest.raises(KeyboardInterrupt):
        run_jobs(rows, work, out)
    with out.open("a") as file:
        file.write('{"image": "3.png", "o')  # as if the power had failed
    assert run_jobs(rows, lambda row: work(row, stop=None), out) == (3, 0)
    assert seen == [f"{i}.png" for i in range(6)]
    assert [row["image"] for row in read_rows(out)] == seen


def test_failures_are_listed_and_tried_again(tmp_path):
    out = tmp_path / "rows.jsonl"
    rows = [{"image": f"{i}.png"} for i in range(40)]
    broken = {"7.png"}

    def work(row):
        if row["image"] in broken:
            raise PictureError("no luck")
        return row

    assert run_jobs(rows, work, out, threads=3) == (39, 1)
    assert list(read_rows(tmp_path / "rows.jsonl.failed.jsonl")) == [{"image": "7.png", "error": "no luck"}]
    broken.clear()
    assert run_jobs(rows, work, out) == (1, 0)
    assert len(RowFile(out).done) == 40
    assert not (tmp_path / "rows.jsonl.failed.jsonl").exists()


@pytest.mark.parametrize("count", [3, 50])
def test_too_many_failures_stop_the_job(tmp_path, count):
    def work(row):
        raise PictureError("no luck")

    with pytest.raises(VilaHDError, match=r"of \d+ pictures failed, more than --max-failed 0.05"):
        run_jobs([{"image": str(i)} for i in range(count)], work, tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["propose", "--media", "none", "--out", "x", "--sam", "none"], "no such folder"),
        (["caption", "none.jsonl", "--media", ".", "--out", "x", "--endpoint", "ftp://x"], "give an address"),
        (["caption", "no.jsonl", "--media", ".", "--out", "{tmp}/x", "--endpoint", "http://x"], "be read"),
        (["documents", "--media", ".", "--out", "{tmp}/x", "--words", "none.jsonl"], "cannot be read"),
        (["pack", "none.jsonl", "--media", ".", "--out", "{tmp}/x"], "cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, message):
    assert main([part.replace("{tmp}", str(tmp_path)) for part in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
