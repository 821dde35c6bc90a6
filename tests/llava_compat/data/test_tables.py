"""Rows by number are those that reading from the start gives, whatever the kind of file."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from PIL import Image

from llava_compat.data import DataError, ReadOptions, open_mixture, open_rows, read_mixture, read_registry
from llava_compat.data import files as files_module
from llava_compat.data.files import iterate_records
from llava_compat.data.tables import GroupCache, open_table

ROWS: list[dict[str, Any]] = [{"id": f"r\u00e9{i}", "q": "Why?" * (i + 1), "a": "So."} for i in range(23)]


def shown(record: Any) -> Any:
    source, value = record
    return source, str(value) if isinstance(value, DataError) else value


def check(path: Path) -> int:
    table = open_table(path)
    expected = [shown(record) for record in iterate_records(path)]
    assert len(table) == len(expected)
    # Backwards, so that nothing depends on what was read before.
    assert [shown(table.read(i)) for i in reversed(range(len(table)))] == expected[::-1]
    assert sum(table.group_sizes or [len(table)]) == len(table)
    return len(table)


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [3, 2**18])
def test_array(
    mark: str, newline: str, indent: int | None, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "CHUNK", chunk)
    path = tmp_path / "rows.json"
    text = mark + json.dumps(ROWS, indent=indent, ensure_ascii=False)
    path.write_bytes(text.replace("\n", newline).encode())
    assert check(path) == len(ROWS)


def test_array_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS)[:200])
    assert 1 < check(path) < len(ROWS)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines(mark: bytes, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[3], lines[5], lines[7] = b"", b"{broken", b'"\xff"'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(mark + b"\r\n".join(lines))
    assert check(path) == len(ROWS) - 1


@pytest.mark.parametrize("kind", ["parquet", "file.arrow", "stream.arrow"])
def test_columns(kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=5)
        assert list(open_table(path).group_sizes or []) == [5, 5, 5, 5, 3]
    else:
        write = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
        with write(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    assert check(path) == len(ROWS)


def test_few_row_groups_of_all_shards_stay_in_memory(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=6)
    cache = GroupCache(capacity=3)
    table = open_table(tmp_path, cache)
    for number in range(len(table)):
        table.read(number)
    assert [(path.name, group) for path, group in cache.groups] == [("2.parquet", i) for i in (1, 2, 3)]


def test_tar(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        row = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Red."}]}
        add_member(archive, "a/1.json", json.dumps({**row, "image": "lost.png"}).encode())
        add_member(archive, "a/1.png", png("red"))
        add_member(archive, "a/2.txt", b"a blue one")
        add_member(archive, "a/2.png", png("blue"))
        add_member(archive, "b/2.0.jpg", png("red"))
        add_member(archive, "b/2.1.jpg", png("blue"))
        add_member(archive, "b/2.json", json.dumps(row).encode())
        add_member(archive, "b/3.png", png("blue"))
    assert check(path) == 4
    rows = open_rows(path)
    first, second, third = (rows.row(i) for i in range(3))
    assert [row.id for row in (first, second, third)] == ["a/1", "a/2", "b/2"]
    assert [picture.getpixel((0, 0)) for picture in third.open_images()] == [(255, 0, 0), (0, 0, 255)]
    assert first.open_images()[0].getpixel((0, 0)) == (255, 0, 0)
    assert second.messages[1].content == ("a blue one",)
    with pytest.raises(DataError, match=r"shard.tar \(row 3\): sample 'b/3': neither a .json nor a .txt"):
        rows.row(3)


def test_tar_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(3):
            add_member(archive, f"{i}.txt", b"x" * 600)
    path.write_bytes(path.read_bytes()[:3000])
    assert check(path) == 2
    assert isinstance(open_table(path).read(1)[1], DataError)
    path.write_bytes(b"no tar" * 200)
    assert check(path) == 1


def test_folder_of_shards(tmp_path: Path) -> None:
    for number, part in enumerate((ROWS[:7], ROWS[7:8], ROWS[8:])):
        pyarrow.parquet.write_table(
            pa.Table.from_pylist(part), tmp_path / f"{number}.parquet", row_group_size=4
        )
    assert check(tmp_path) == len(ROWS)
    assert list(open_table(tmp_path).group_sizes or []) == [4, 3, 1, 4, 4, 4, 3]


def test_mixture_gives_the_rows_of_read_mixture(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=5)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[:3]))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "a.json").write_text(json.dumps([0, 1, 2, 3, 4, 9, 22]))
    (tmp_path / "sets.yaml").write_text(
        "a: {data_path: a.parquet}\nb: {data_path: b.jsonl, no_system_prompt: true}\n"
    )
    registry = read_registry(tmp_path / "sets.yaml")
    sets = open_mixture("b*2+a@half", registry, slices=tmp_path)
    assert [(rows.name, len(rows), rows.repeats) for rows in sets] == [("a", 16, 1), ("b", 3, 2)]
    assert list(sets[0].table.group_sizes or []) == [4, 5, 5, 2]
    numbered = [rows.row(i) for rows in sets for _ in range(rows.repeats) for i in range(len(rows))]
    assert numbered == list(read_mixture("b*2+a@half", registry, slices=tmp_path))


def test_a_broken_row_is_raised_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"id": "x", "q": "", "a": "b"}))
    rows = open_rows(path, ReadOptions(media=tmp_path))
    assert rows.row(0).id == ROWS[0]["id"]
    with pytest.raises(DataError, match=r"rows.jsonl:2 \(row 1\): sample 'x': turn 0: the question is empty"):
        rows.row(1)
