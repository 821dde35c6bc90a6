"""The published two-tar layout becomes shards of regions: complete, checked, and resumable."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from train.data.regions import RealRegionDataset
from train.data.shards import read_at, read_index, scan_shard
from train.import_ps3 import convert_entry, fit_row, main
from train.region_config import RegionDataConfig, RegionSource
from vila_hd.images import open_image
from vila_hd.testing import tiny_picture


def picture(seed):
    file = io.BytesIO()
    tiny_picture(60, 40, seed=seed).save(file, "JPEG")
    return file.getvalue()


def entry(number):
    return {
        "text": [f"left {number}", f"right {number}"],
        "box": [[0, 0, 20, 20], [30.5, 10, 60, 40.4]],
        "global_text": f"scene {number}",
        "type": "sa1b",
    }


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_published(folder, shards=2, samples=4):
    for shard in range(shards):
        keys = [f"{shard:02d}{i:04d}" for i in range(samples)]
        write_tar(folder / f"img/{shard:05d}.tar", [(f"{key}.jpg", picture(i)) for i, key in enumerate(keys)])
        texts = [(f"{key}.json", json.dumps(entry(key)).encode()) for key in keys]
        write_tar(folder / f"txt/{shard:05d}.tar", texts)
    pattern = f"{folder}/img/{{00000..{shards - 1:05d}}}.tar"
    return ["--images", pattern, "--texts", str(folder / "txt")]


def test_import_gives_what_training_reads(tmp_path, capsys):
    arguments = write_published(tmp_path)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "8 samples, 0 broken" in capsys.readouterr().out
    assert read_index(tmp_path / "out") == {"000000.tar": 4, "000001.tar": 4}
    shard = tmp_path / "out/000001.tar"
    members = scan_shard(shard)["010002"]
    assert read_at(shard, members["jpg"]) == picture(2)
    said = json.loads(read_at(shard, members["json"]))
    assert said["global_caption"] == "scene 010002"
    assert said["regions"][1] == {"box": [30.5, 10, 60, 40], "caption": "right 010002"}
    config = RegionDataConfig(sources=(RegionSource(name="all", path=str(tmp_path / "out")),))
    rows = RealRegionDataset(config, rows=8, seed=0, side=64, items_per_picture=2)
    assert len({rows[i].picture.picture_id for i in range(8)}) == 8


def test_pairs_are_joined_by_key_not_by_order(tmp_path):
    keys = ["a", "b", "c"]
    write_tar(tmp_path / "img/0.tar", [(f"{key}.jpg", picture(0)) for key in keys])
    write_tar(
        tmp_path / "txt/0.tar", [(f"{key}.json", json.dumps(entry(key)).encode()) for key in keys[::-1]]
    )
    command = ["--images", str(tmp_path / "img"), "--texts", str(tmp_path / "txt")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    for key, members in scan_shard(tmp_path / "out/000000.tar").items():
        said = json.loads(read_at(tmp_path / "out/000000.tar", members["json"]))
        assert said["global_caption"] == f"scene {key}"


def test_finished_shards_are_skipped_and_an_interrupted_one_is_made_again(tmp_path, caplog):
    command = [*write_published(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    first = (tmp_path / "out/000000.tar").stat().st_mtime_ns
    expected = (tmp_path / "out/000001.tar").read_bytes()
    (tmp_path / "out/000001.tar").rename(tmp_path / "out/000001.tar.partial")
    caplog.set_level("INFO")
    assert main(command) == 0
    assert (tmp_path / "out/000000.tar").stat().st_mtime_ns == first
    assert (tmp_path / "out/000001.tar").read_bytes() == expected
    assert "finished already" in caplog.text


@pytest.mark.parametrize(
    ("images", "texts", "problem"),
    [
        ([("a.jpg", b"?")], [("a.json", json.dumps(entry(0)).encode())], "a: "),
        ([("a.jpg", picture(0))], [], "a: no .json in 0.tar"),
        ([], [("a.json", json.dumps(entry(0)).encode())], "a: no picture in 0.tar"),
        ([("a.jpg", picture(0))], [("a.json", b"[")], "a: Expecting value"),
        ([("a.jpg", picture(0))], [("a.json", b'{"text": ["x"], "box": []}')], "1 texts and 0 boxes"),
        ([("a.jpg", picture(0))], [("a.json", b'{"text": [], "box": []}')], "nothing to learn from"),
        (
            [("a.jpg", picture(0))],
            [("a.json", b'{"text": ["x"], "box": [[0, 0, 99, 9]]}')],
            "leaves the picture",
        ),
    ],
)  # fmt: skip
def test_problems_are_named_and_stop_the_import(tmp_path, caplog, capsys, images, texts, problem):
    good = [(f"g{i}", entry(i)) for i in range(3)]
    write_tar(tmp_path / "img/0.tar", [(f"{key}.jpg", picture(0)) for key, _ in good] + images)
    write_tar(
        tmp_path / "txt/0.tar", [(f"{key}.json", json.dumps(row).encode()) for key, row in good] + texts
    )
    command = ["--images", str(tmp_path / "img"), "--texts", str(tmp_path / "txt")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert problem in caplog.text
    assert "1 of 4 samples are broken" in capsys.readouterr().err
    assert not (tmp_path / "out/000000.tar").exists()
    assert main([*command, "--check", "--max-broken", "0.25"]) == 0
    assert main([*command, "--out", str(tmp_path / "out"), "--max-broken", "0.25"]) == 0
    assert read_index(tmp_path / "out") == {"000000.tar": 3}


def test_other_shards_may_not_go_into_the_same_folder(tmp_path, capsys):
    assert main([*write_published(tmp_path), "--out", str(tmp_path / "out")]) == 0
    more = write_published(tmp_path, shards=3)
    assert main([*more, "--out", str(tmp_path / "out")]) == 2
    assert "was made from other shards" in capsys.readouterr().err


def test_counts_must_agree(tmp_path, capsys):
    command = write_published(tmp_path)
    (tmp_path / "txt/00001.tar").unlink()
    assert main([*command, "--check"]) == 2
    assert "2 shards of pictures and 1 of texts" in capsys.readouterr().err


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_turned_pictures_follow(orientation):
    stored = Image.new("RGB", (80, 60), "black")
    stored.paste((255, 255, 255), (8, 16, 32, 24))
    exif = stored.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=95, exif=exif)
    row = {"regions": [{"box": [8, 16, 32, 24], "caption": "white"}], "global_caption": None}
    (region,) = fit_row(file.getvalue(), row, decode=False)["regions"]
    upright = open_image(file.getvalue()).convert("L")
    x1, y1, x2, y2 = map(int, region["box"])
    assert np.asarray(upright.crop((x1, y1, x2, y2))).min() > 200
    assert (np.asarray(upright) > 127).sum() == (x2 - x1) * (y2 - y1) == 24 * 8


def test_missing_texts_leave_a_global_pair():
    assert convert_entry({"global_text": "a street"}) == {"regions": [], "global_caption": "a street"}
