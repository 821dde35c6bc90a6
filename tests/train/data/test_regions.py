"""Rows of real data: from shards and from tables, in an order that a resumed run repeats."""

import io
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from train.data.account import Account, Report
from train.data.collators import RegionCollator
from train.data.regions import RealRegionDataset
from train.data.shards import ShardWriter
from train.region_config import RegionDataConfig, RegionSource
from vila_hd.errors import VilaHDError
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.testing import tiny_picture, tiny_tokenizer


def encoded(width, height, seed=0, kind="PNG"):
    file = io.BytesIO()
    tiny_picture(width, height, seed=seed).save(file, kind)
    return file.getvalue()


def row(number, regions=3, whole=True):
    boxes = [[10.0 * i, 5.0, 10.0 * i + 20, 30.0] for i in range(regions)]
    return {
        "regions": [{"box": box, "caption": f"thing {number} {i}"} for i, box in enumerate(boxes)],
        "global_caption": f"place {number}" if whole else None,
    }


def write_shards(folder, counts=(4, 3), size=(90, 40), **options):
    number = 0
    for shard, count in enumerate(counts):
        with ShardWriter(folder / f"{shard:03d}.tar") as writer:
            for _ in range(count):
                text = json.dumps(row(number, **options)).encode()
                writer.add(f"key{number}", {"png": encoded(*size, seed=number), "json": text})
                number += 1
    return str(folder)


def dataset(*paths, rows=40, seed=0, items=2, share=0.0, instead=False, **config):
    sources = tuple(RegionSource(name=f"s{i}", path=str(path)) for i, path in enumerate(paths))
    return RealRegionDataset(
        RegionDataConfig(sources=sources, **config),
        rows=rows, seed=seed, side=64, items_per_picture=items, global_share=share, global_instead=instead,
    )  # fmt: skip


def read_all(rows):
    return [rows[i] for i in range(len(rows))]


def same(one, two):
    return (
        one.picture.picture_id == two.picture.picture_id
        and one.captions == two.captions
        and torch.equal(one.boxes, two.boxes)
        and torch.equal(one.picture.pixels, two.picture.pixels)
        and one.use_global == two.use_global
    )


def test_rows_are_functions_of_seed_and_number(tmp_path):
    path = write_shards(tmp_path)
    one, two = dataset(path, share=0.5), dataset(path, share=0.5)
    later = [two[i] for i in (20, 3, 11)]
    for i, found in zip((20, 3, 11), later, strict=True):
        assert same(one[i], found)
    other = dataset(path, seed=1)
    assert not all(same(one[i], other[i]) for i in range(4))
    # Every sample once per epoch.
    assert len({one[i].picture.picture_id for i in range(7)}) == 7


def test_pictures_are_small_bytes_with_whole_boxes(tmp_path):
    found = [dataset(write_shards(tmp_path), resize="fit")[i] for i in range(7)]
    for entry in found:
        pixels = entry.picture.pixels
        assert pixels.dtype == torch.uint8
        assert max(pixels.shape) <= 64
        assert pixels.shape[2] > 1.7 * pixels.shape[1]  # 90 x 40, not squashed
        assert entry.boxes.shape == (2, 4)
        assert len(entry.captions) == 2
        assert (entry.boxes[:, 2:] > entry.boxes[:, :2]).all()
        assert (entry.boxes[:, 2:] <= torch.tensor([pixels.shape[2], pixels.shape[1]])).all()


def test_box_shows_the_same_pixels_as_in_the_file(tmp_path):
    picture = Image.new("RGB", (200, 50), "black")
    picture.paste((255, 255, 255), (170, 10, 190, 30))
    file = io.BytesIO()
    picture.save(file, "PNG")
    text = {"regions": [{"box": [170, 10, 190, 30], "caption": "white"}]}
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.add("a", {"png": file.getvalue(), "json": json.dumps(text).encode()})
    for resize in ("squash", "fit"):
        rows = dataset(tmp_path, items=1, resize=resize, crop_area=(0.3, 0.9))
        for i in range(10):
            entry = rows[i]
            x1, y1, x2, y2 = entry.boxes[0].tolist()
            inside = entry.picture.pixels[:, y1:y2, x1:x2].float().mean()
            assert inside > 150  # boxes are rounded outwards
            share = (entry.picture.pixels > 127).sum() / 3 / ((x2 - x1) * (y2 - y1))
            assert 0.6 < share < 1.05


def test_whole_pictures_with_and_instead_of_regions(tmp_path):
    path = write_shards(tmp_path)
    both = [dataset(path, share=1.0)[i] for i in range(3)]
    assert all(entry.use_global and len(entry.captions) == 2 for entry in both)
    alone = [dataset(path, share=1.0, instead=True)[i] for i in range(3)]
    assert all(entry.use_global and not entry.captions for entry in alone)
    assert alone[0].boxes.shape == (0, 4)
    without = write_shards(tmp_path / "documents", whole=False)
    assert not any(dataset(without, share=1.0)[i].use_global for i in range(7))


def test_picture_without_regions_is_a_global_pair(tmp_path):
    rows = dataset(write_shards(tmp_path, regions=0))
    assert rows[0].use_global
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))([rows[0], rows[1]])
    assert batch["is_global"].tolist() == [True, True]
    assert batch["look_index"].tolist() == [0, 1]


def test_regions_of_a_picture_share_it_in_a_batch(tmp_path):
    rows = dataset(write_shards(tmp_path), items=3, share=1.0)
    batch = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))([rows[0], rows[1]])
    assert len(batch["pixel_values"]) == 2
    assert batch["look_index"].tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert batch["picture_ids"].dtype == torch.int64
    assert not any(value.is_floating_point() for value in batch.values() if torch.is_tensor(value))


def test_broken_samples_are_replaced_and_named(tmp_path):
    write_shards(tmp_path, counts=(8,))
    broken = {
        "cut": {"png": encoded(90, 40)[:200], "json": json.dumps(row(1)).encode()},
        "outside": {"png": encoded(20, 20), "json": json.dumps(row(1)).encode()},
        "words": {"png": encoded(90, 40), "json": b'{"regions": [{"box": [0, 0, 9, 9], "caption": " "}]}'},
        "alone": {"json": json.dumps(row(1)).encode()},
        "syntax": {"png": encoded(90, 40), "json": b"{"},
    }
    with ShardWriter(tmp_path / "bad.tar") as writer:
        for key, members in broken.items():
            writer.add(key, members)
    found = read_all(dataset(tmp_path, rows=13))
    report = Report.merge(entry.report for entry in found)
    assert report.samples == 13
    assert report.failure is None
    assert len(report.broken) >= 5
    assert all(any(f"bad.tar/{key}" in text for text in report.broken) for key in broken)
    again = dataset(tmp_path, rows=13)
    assert all(same(found[i], again[i]) for i in reversed(range(13)))


def test_too_many_broken_samples_stop_the_run(tmp_path):
    write_shards(tmp_path, counts=(6,))
    with ShardWriter(tmp_path / "bad.tar") as writer:
        writer.add("x", {"png": b"?", "json": json.dumps(row(1)).encode()})
    collate = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))
    report = collate(read_all(dataset(tmp_path, rows=140)))["report"]
    assert 10 < len(report.broken) < 40
    with pytest.raises(VilaHDError, match=r"broken row\(s\) among \d+, more than .*0.05.*bad.tar/x"):
        Account(0.05).take(report)
    account = Account(0.25)
    account.take(report)
    assert float(account.metrics()["broken"]) == pytest.approx(
        len(report.broken) / (140 + len(report.broken))
    )


def test_nothing_but_broken_samples_end_the_run_with_one_line(tmp_path):
    with ShardWriter(tmp_path / "bad.tar") as writer:
        writer.add("x", {"png": b"?", "json": json.dumps(row(1)).encode()})
    collate = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))
    batch = collate(read_all(dataset(tmp_path, rows=2)))
    with pytest.raises(VilaHDError, match=r"source s0: 20 samples in a row are broken.*bad.tar/x") as caught:
        Account(1.0).take(batch["report"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["saved", "parquet", "jsonl", "bytes"])
def test_tables(tmp_path, form):
    table = [{"image": encoded(90, 40, seed=i), **row(i)} for i in range(5)]
    box = datasets.List(datasets.Value("float64"), length=4)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "regions": [{"box": box, "caption": datasets.Value("string")}],
            "global_caption": datasets.Value("string"),
        }
    )  # fmt: skip
    path = tmp_path / "rows"
    if form == "jsonl":
        path.mkdir()
        for i, entry in enumerate(table):
            (path / f"{i}.png").write_bytes(entry.pop("image"))
            entry["image"] = f"{i}.png"
        path = path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(entry) for entry in table))
    elif form == "bytes":
        path = tmp_path / "rows.parquet"
        datasets.Dataset.from_list(table).to_parquet(path)
    else:
        saved = datasets.Dataset.from_list(
            [{**entry, "image": {"bytes": entry["image"], "path": None}} for entry in table], features
        )
        if form == "saved":
            saved.save_to_disk(path)
        else:
            path.mkdir()
            saved.to_parquet(path / "0.parquet")
    rows = dataset(path)
    found = [rows[i] for i in range(5)]
    assert len({entry.picture.picture_id for entry in found}) == 5
    for entry in found:
        numbers = {caption.split()[1] for caption in entry.captions}
        assert entry.picture.global_caption == f"place {numbers.pop()}"
        assert not numbers


def test_loader_processes_hand_on_bytes(tmp_path):
    rows = dataset(write_shards(tmp_path), rows=6)
    collate = RegionCollator(PS3Tokenizer(tiny_tokenizer(), context_length=12))
    batches = list(DataLoader(rows, batch_size=3, num_workers=1, collate_fn=collate))
    expected = collate([rows[i] for i in range(3)])
    for one, two in zip(batches[0]["pixel_values"], expected["pixel_values"], strict=True):
        assert one.dtype == torch.uint8
        assert torch.equal(one, two)


def test_sources_share_rows_by_weight(tmp_path):
    write_shards(tmp_path / "a", counts=(3,))
    write_shards(tmp_path / "b", counts=(3,), whole=False)
    sources = (
        RegionSource(name="a", path=str(tmp_path / "a"), weight=3),
        RegionSource(name="b", path=str(tmp_path / "b"), weight=1),
    )
    rows = RealRegionDataset(
        RegionDataConfig(sources=sources), rows=60, seed=0, side=64, items_per_picture=1, global_share=1.0
    )
    share = np.mean([rows[i].use_global for i in range(60)])
    assert 0.6 < share < 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "a folder without"),
        (lambda folder: write_shards(folder, counts=(0,)), "no samples"),
    ],
)
def test_sources_without_samples_are_refused(tmp_path, make, message):
    made = make(tmp_path)
    with pytest.raises(VilaHDError, match=message):
        dataset(tmp_path if made is not None else tmp_path / "none")
