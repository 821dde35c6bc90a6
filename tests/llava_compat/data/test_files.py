"""Files are read row by row; what is broken is named by its line, and good rows around it are read."""

import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from llava_compat.data import DataError, ReadOptions, Tolerance, read_rows
from llava_compat.data import files as files_module
from llava_compat.data.files import iterate_records

PAIR = {"q": "Why?", "a": "So."}


def ids_and_problems(path: Any, media: Path) -> tuple[list[str], list[str]]:
    problems: list[DataError] = []
    rows = list(read_rows(path, ReadOptions(media=media), on_problem=problems.append))
    return [row.id for row in rows], [str(problem) for problem in problems]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_an_array_is_read_whatever_its_layout(
    tmp_path: Path, indent: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "CHUNK", chunk)
    rows = [{**PAIR, "id": i, "x": '\u00e9"]}' * i, "n": 10**i} for i in range(12)]
    path = tmp_path / "rows.json"
    path.write_text("\ufeff " + json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    records = list(iterate_records(path))
    assert [value for _, value in records] == rows
    assert [source.index for source, _ in records] == list(range(12))
    if indent is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert all(lines[source.line - 1] == " {" for source, _ in records if source.line is not None)


def test_a_json_file_may_hold_lines(tmp_path: Path, media: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + "\n\n".join(json.dumps({**PAIR, "id": i}) for i in range(3)), encoding="utf-8")
    assert ids_and_problems(path, media) == (["0", "1", "2"], [])
    assert [source.line for source, _ in iterate_records(path)] == [1, 3, 5]


def test_an_empty_file_has_no_rows(tmp_path: Path, media: Path) -> None:
    for name, text in (("a.json", "[]"), ("b.json", " [ ]\n"), ("c.jsonl", "")):
        (tmp_path / name).write_text(text)
        assert ids_and_problems(tmp_path / name, media) == ([], [])


def test_a_broken_line_leaves_the_others(tmp_path: Path, media: Path) -> None:
    good = json.dumps({**PAIR, "id": "g"}).encode()
    bad = [
        b"{",
        b'{"q": 1',
        b"\xff\xfe",
        b"nothing",
        b"[" * 100_000,
        b"1" * 5000,
        b"[1, 2]",
        b'"text"',
        b"null",
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(itertools.chain.from_iterable((good, line) for line in bad)) + b"\n" + good)
    ids, problems = ids_and_problems(path, media)
    assert ids == ["g"] * (len(bad) + 1)
    assert [problem.partition(" (row")[0] for problem in problems] == [
        f"{path}:{2 * i + 2}" for i in range(len(bad))
    ]
    assert "not JSON (Expecting property name enclosed in double quotes at character 2)" in problems[0]
    assert "byte 0 of the line is not UTF-8" in problems[2]
    assert "nested too deeply" in problems[4]
    assert "expected an object, got [1, 2]" in problems[6]


@pytest.mark.parametrize(
    ("text", "num_good", "words"),
    [
        ('[{"q": "a", "a": "b"}, {"q": 1', 1, "row 1.* not JSON"),
        ('[{"q": "a", "a": "b"} {"q": "a"}]', 1, "row 1.* expected ',', got '{'"),
        ('[{"q": "a", "a": "b"},]', 1, "row 1.* a comma before ]"),
        ('[{"q": "a", "a": "b"}', 1, "expected ',', got the end of the file"),
        ('[{"q": "a", "a": "b"}] x', 1, "'x' after the end of the array"),
        ("[" * 100_000, 0, "nested too deeply"),
        ("[" + "1" * 5000 + "]", 0, "not JSON"),
        ("{\n", 0, "an object over several lines"),
    ],
)
def test_a_broken_array_is_read_up_to_there(
    text: str, num_good: int, words: str, tmp_path: Path, media: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    ids, problems = ids_and_problems(path, media)
    assert len(ids) == num_good
    assert len(problems) == 1
    with pytest.raises(DataError, match=words):
        raise DataError(problems[0])


def test_broken_encoding_inside_of_an_array(tmp_path: Path, media: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"q": "a", "a": "\xff"}]')
    assert "not UTF-8" in ids_and_problems(path, media)[1][0]


def test_endless_rows_are_refused(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(files_module, "CHUNK", 100)
    for name, text in (("a.jsonl", '{"q": "' + "x" * 2000), ("b.json", '[{"q": "' + "x" * 2000)):
        (tmp_path / name).write_text(text)
        assert "more than 1000" in ids_and_problems(tmp_path / name, media)[1][0]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_long_files_take_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    row = json.dumps({"q": "x" * 2000, "a": "b"})
    is_array = name.endswith(".json")
    with path.open("w") as file:
        file.write("[" if is_array else "")
        for number in range(4_000):
            file.write(("," if is_array and number else "") + row + "\n")
        file.write("]" if is_array else "")
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == 4_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 8e6
    assert peak < 5e6


def test_rows_come_before_the_file_is_read_to_its_end(media: Path) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield PAIR

    first = list(itertools.islice(read_rows(endless(), ReadOptions(media=media)), 3))
    assert [(row.id, str(row.source)) for row in first] == [(str(i), f"rows (row {i})") for i in range(3)]


# ---------------------------------------------------------------- parquet and arrow


@pytest.fixture
def table(media: Path) -> pa.Table:
    """40 rows as the datasets package stores them: pictures in the file, keys that a row lacks are null."""
    picture = {"bytes": (media / "a.png").read_bytes(), "path": "a.png"}
    rows = [
        {"id": i, "images": [picture], "texts": [{"user": "Why?", "assistant": f"So {i}."}], "box": None}
        for i in range(40)
    ]
    return pa.Table.from_pylist(rows)


def write_table(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, row_group_size=16)
        return
    new = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
    with path.open("wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
def test_columns_are_rows(name: str, table: pa.Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / name)
    rows = list(read_rows(tmp_path / name))
    assert [row.id for row in rows] == [str(i) for i in range(40)]
    assert rows[7].open_images()[0].size == (40, 30)
    assert rows[7].messages[1].content == ("So 7.",)
    assert str(rows[7].source) == f"{tmp_path / name} (row 7)"


def test_a_folder_of_shards_is_one_set(table: pa.Table, tmp_path: Path) -> None:
    for number in (1, 0):
        write_table(table.slice(20 * number, 20), tmp_path / f"train-{number:05d}-of-00002.parquet")
    (tmp_path / "README.md").write_text("a set")
    rows = list(read_rows(tmp_path))
    assert [row.id for row in rows] == [str(i) for i in range(40)]
    assert rows[25].source.index == 25
    assert rows[25].source.file.endswith("train-00001-of-00002.parquet")


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
def test_cut_and_foreign_files_are_named(name: str, table: pa.Table, tmp_path: Path, media: Path) -> None:
    write_table(table, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for damaged in (b"", b"PAR1", content[: len(content) // 2], content[:-9], b"x" * 200):
        (tmp_path / name).write_bytes(damaged)
        problems = ids_and_problems(tmp_path / name, media)[1]
        assert len(problems) == 1
        assert "not readable as" in problems[0]


def test_rows_of_the_datasets_package(table: pa.Table, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = datasets.Sequence(datasets.Image())
    data = datasets.Dataset(table).cast_column("images", pictures)
    data.save_to_disk(tmp_path / "set")
    for rows in (list(read_rows(data)), list(read_rows(tmp_path / "set"))):
        assert [row.id for row in rows] == [str(i) for i in range(40)]
        assert rows[3].open_images()[0].size == (40, 30)


# ---------------------------------------------------------------- what is no file of rows


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.json", "no such file"),
        ("rows.pkl", "can run code"),
        ("rows.npy", "can run code"),
        ("rows.csv", "unknown kind of file; give .json, .jsonl, .parquet"),
        ("empty", "a folder without parquet, arrow or tar files"),
    ],
)
def test_other_paths_are_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for present in ("rows.pkl", "rows.npy", "rows.csv"):
        (tmp_path / present).write_bytes(b"x")
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / name)


def test_the_first_problem_is_raised_unless_somebody_takes_it(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([PAIR, {"q": "a", "a": ""}, PAIR])
    rows = read_rows(path)
    assert next(rows).id == "0"
    with pytest.raises(DataError, match=r"rows.jsonl:2 .row 1.: sample '1': turn 1: the answer is empty"):
        next(rows)


def test_single_broken_rows_are_tolerated_and_many_are_not(write_jsonl: Callable[..., Path]) -> None:
    bad = {"q": "a", "a": ""}
    tolerance = Tolerance(rate=0.02)
    rows = list(read_rows(write_jsonl([PAIR] * 99 + [bad] * 2 + [PAIR] * 99), on_problem=tolerance))
    assert (len(rows), tolerance.problems) == (198, 2)
    with pytest.raises(
        DataError, match=r"3 broken row\(s\) among the first 100, more than 2.0%.*the last one"
    ):
        list(read_rows(write_jsonl([bad] * 3 + [PAIR] * 500), on_problem=Tolerance(rate=0.02)))
