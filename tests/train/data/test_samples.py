"""Rows become samples: whatever stands in a row, cut between turns only, broken ones replaced and counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from train.data.account import Account, Report
from train.data.collators import BOX_UNIT, SampleCollator
from train.data.config import CanvasConfig, SourceConfig
from train.data.samples import ATTEMPTS
from train.data.sources import open_sources
from vila_hd.constants import IGNORE_INDEX
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_processor, tiny_tokenizer

PROCESSOR = tiny_processor()


def by_id(dataset):
    return {sample.row.id: sample for sample in map(dataset.__getitem__, range(8)) if sample.row is not None}


def words(ids):
    return tiny_tokenizer().decode([i for i in ids if i not in (IGNORE_INDEX, PROCESSOR.image_token_id)])


def test_labels_pictures_and_guides_of_every_kind(make_dataset, rows):
    samples = by_id(make_dataset(rows))
    assert samples.keys() == {"text", "one", "many", "box"}
    assert words(samples["text"].labels) == "Hello.<|im_end|>That is all.<|im_end|>"
    assert samples["text"].pictures == ()
    many = samples["many"]
    # As they are: no side is longer than the tower's largest scale.
    assert [tuple(p.shape) for p in many.pictures] == [(3, 60, 96), (3, 90, 60), (3, 128, 128)]
    assert all(p.dtype == torch.uint8 for p in many.pictures)
    # The first question after each picture.
    read = [words(many.input_ids[: place + 1]) for place in many.look_positions]
    assert [text[-8:] for text in read[:2]] == ["Compare."] * 2
    assert read[2].endswith("?")
    assert samples["box"].boxes == (((32.0, 16.0, 64.5, 48.0),),)
    assert samples["box"].sizes == ((128, 128),)


@pytest.mark.parametrize("workers", [1, 3])
def test_samples_do_not_depend_on_loader_processes(make_dataset, rows, workers):
    dataset = make_dataset(rows, own_choice=0.5)
    collate = SampleCollator(PROCESSOR.tokenizer.pad_token_id)
    alone = [collate([dataset[i], dataset[i + 1]]) for i in range(0, 12, 2)]
    loader = DataLoader(dataset, 2, num_workers=workers, collate_fn=collate, prefetch_factor=2)
    for expected, batch in zip(alone, loader, strict=False):
        assert batch.keys() == expected.keys()
        for name in batch.keys() - {"pixel_values", "all_boxes", "report"}:
            assert torch.equal(batch[name], expected[name]), name
        assert (batch["pixel_values"] is None) == (expected["pixel_values"] is None)
        for one, other in zip(batch["pixel_values"] or [], expected["pixel_values"] or [], strict=True):
            assert torch.equal(one, other)


def test_batch_of_all_kinds(make_dataset, rows):
    samples = list(by_id(make_dataset(rows)).values())
    batch = SampleCollator(0)(samples)
    counts = [len(sample.pictures) for sample in samples]
    assert len(batch["pixel_values"]) == sum(counts) == 5
    runs = (batch["input_ids"] == PROCESSOR.image_token_id).sum(1) // PROCESSOR.low_res_tokens
    assert runs.tolist() == counts
    assert len(batch["box_look"]) == 1
    look = int(batch["box_look"])
    assert batch["picture_sizes"][look].tolist() == [128 * BOX_UNIT] * 2
    assert (batch["boxes"][0] / BOX_UNIT).tolist() == [32.0, 16.0, 64.5, 48.0]
    assert torch.equal(batch["attention_mask"].sum(1), torch.tensor([len(s.input_ids) for s in samples]))
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE_INDEX).all()


def test_long_rows_are_cut_between_turns(make_dataset, rows):
    many = rows[2]
    whole = make_dataset([many])[0]
    assert not whole.report.truncated
    cut = make_dataset([many], max_length=whole.length - 1)[0]
    assert cut.report.truncated == 1
    assert words(cut.labels) == "Equal.<|im_end|>"
    assert len(cut.pictures) == len(cut.look_positions) == 2
    # Nothing of the third picture is left, and the others are whole.
    assert cut.input_ids.count(PROCESSOR.image_token_id) == 2 * PROCESSOR.low_res_tokens
    assert cut.input_ids == whole.input_ids[: len(cut.input_ids)]
    # Every high-resolution token is counted.
    assert cut.length > len(cut.input_ids) + 2 * 10


def test_many_pictures_are_cut_between_turns(make_dataset, rows):
    many = rows[2]
    cut = make_dataset([many], max_pictures=2)[0]
    assert cut.report.truncated == 1
    assert len(cut.pictures) == 2
    assert words(cut.labels) == "Equal.<|im_end|>"
    with pytest.raises(VilaHDError, match=r"the first turn shows 2 pictures, more than data.max_pictures=1"):
        make_dataset([many], max_pictures=1).check_sources()


def test_rows_without_room_for_a_turn_are_replaced(make_dataset, rows):
    text, many = rows[0], rows[2]
    dataset = make_dataset([text, many], max_length=60)
    samples = [dataset[i] for i in range(10)]
    assert {sample.row.id for sample in samples} == {"text"}
    report = Report.merge(sample.report for sample in samples)
    assert len(report.skipped) >= 5
    assert "rows.jsonl:2 (row 1): sample 'many': the first turn takes up to" in report.skipped[0]
    assert not report.broken
    with pytest.raises(VilaHDError, match=r"none of its first 1 row.* more than data.max_length=60"):
        make_dataset([many], max_length=60).check_sources()


def test_broken_rows_are_replaced_named_and_counted(make_dataset, rows, folder):
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    bad = [
        {**rows[1], "id": "lost", "image": "lost.png"},
        {**rows[1], "id": "cut", "image": "cut.png"},
        {**rows[1], "id": "count", "images": ["0.png", "1.png"], "image": None},
    ]
    dataset = make_dataset([*rows, *bad])
    samples = [dataset[i] for i in range(28)]
    assert {sample.row.id for sample in samples} == {"text", "one", "many", "box"}
    report = Report.merge(sample.report for sample in samples)
    for name in ("lost", "cut", "count"):
        assert any(f"sample {name!r}" in text and "rows.jsonl:" in text for text in report.broken)
    assert len(report.broken) >= 12
    again = make_dataset([*rows, *bad])
    assert [again[i].row.id for i in reversed(range(28))] == [s.row.id for s in samples][::-1]


def test_run_stops_beyond_the_rate(caplog):
    account = Account(max_broken=0.05)
    for _ in range(5):
        account.take(Report(samples=4, broken=("a.jsonl:3 (row 2): sample 'x': bad",)))
    assert "a.jsonl:3 (row 2): sample 'x': bad" in caplog.text
    with pytest.raises(VilaHDError, match=r"6 broken row\(s\) among 30, .*max_broken=0.05.*sample 'y'"):
        account.take(Report(samples=4, broken=("b.jsonl:1 (row 0): sample 'y': worse",)))
    assert account.metrics()["broken"] == pytest.approx(6 / 30)
    few = Account(max_broken=0.05)
    for _ in range(60):
        few.take(Report(samples=40, broken=("z",)))
    with pytest.raises(VilaHDError, match="no way"):
        few.take(Report(samples=0, failure="no way"))


def test_source_of_broken_rows_only(make_dataset, rows):
    dataset = make_dataset([{**rows[1], "image": "lost.png"}])
    with pytest.raises(VilaHDError, match=r"source .*rows.jsonl: none of its first 1 row.*'lost.png'"):
        dataset.check_sources()
    sample = dataset[0]
    assert sample.row is None
    assert len(sample.report.broken) == ATTEMPTS
    batch = SampleCollator(0)([sample, sample])
    assert "lost.png" in batch["report"].failure
    assert not (batch["labels"] != IGNORE_INDEX).any()


def test_select_takes_rows_with_boxes_only(make_dataset, rows):
    dataset = make_dataset(rows, need_box=True)
    samples = [dataset[i] for i in range(6)]
    assert {sample.row.id for sample in samples} == {"box"}
    report = Report.merge(sample.report for sample in samples)
    assert report.skipped
    assert not report.broken
    with pytest.raises(VilaHDError, match="no box, and the select stage"):
        make_dataset(rows[:2], need_box=True).check_sources()


def test_canvas_moves_picture_and_boxes(make_dataset, rows, folder):
    Image.new("RGB", (96, 60), (255, 0, 0)).save(folder / "0.png")
    canvas = CanvasConfig(side=(200, 300), picture_side=(40, 50), aspect=2.0)
    dataset = make_dataset([rows[1], rows[3], rows[0], rows[2]], source={"canvas": canvas})
    samples = by_id(dataset)
    one = samples["one"]
    (width, height), ((x1, y1, x2, y2),) = one.sizes[0], one.boxes[0]
    assert 200 <= max(width, height) <= 300
    assert 40 <= max(x2 - x1, y2 - y1) <= 50
    # The picture stands where the box says, at the size that the tower reads.
    scale = max(one.pictures[0].shape[1:]) / max(width, height)
    middle = [int((a + b) / 2 * scale) for a, b in ((y1, y2), (x1, x2))]
    assert one.pictures[0][:, middle[0], middle[1]].tolist() == [255, 0, 0]
    (bx1, by1, bx2, by2) = samples["box"].boxes[0][0]
    assert (bx2 - bx1) / (by2 - by1) == pytest.approx(32.5 / 32, rel=0.05)
    assert len(samples["many"].boxes) == 3
    assert not any(samples["many"].boxes)


def test_sources_of_all_kinds_mix_by_rate_and_weight(folder, rows):
    for number in range(2):
        lines = "\n".join(json.dumps({**rows[0], "id": f"{number}{i}"}) for i in range(5))
        (folder / f"part{number}.jsonl").write_text(lines)
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([rows[0]] * 30), folder / "rows.parquet", row_group_size=8
    )
    (folder / "sets.yaml").write_text("a: {data_path: part0.jsonl}\nb: {data_path: part1.jsonl}\n")
    sources = open_sources(
        [
            SourceConfig(path=folder / "part*.jsonl", rate=2.0),
            SourceConfig(path=folder / "rows.parquet", rate=0.1),
            SourceConfig(path=folder / "sets.yaml", mixture="a*3+b"),
        ]
    )
    assert [source.share for source in sources] == [20, 3, 15, 5]
    assert sources[0].rows.row(7).id == "12"
    weighted = open_sources(
        [
            SourceConfig(path=folder / "rows.parquet", weight=1.0),
            SourceConfig(path=folder / "sets.yaml", mixture="a*3+b", weight=2.0),
        ]
    )
    assert [source.share for source in weighted] == [1.0, 1.5, 0.5]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("part*.jsonl", None, "no file fits"),
        ("empty.jsonl", "", "has no rows"),
        ("sets.yaml", "{}", "a registry without data sets"),
    ],
)
def test_sources_that_cannot_be_opened(name, text, message, tmp_path: Path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(VilaHDError, match=message):
        open_sources([SourceConfig(path=tmp_path / name)])
