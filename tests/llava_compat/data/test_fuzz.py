"""Hostile rows, files, registries and paths: a row that fulfils every promise, or ``VilaHDError``."""

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_compat.data import (
    CONVENTIONS,
    DataError,
    ReadOptions,
    Row,
    Source,
    make_row,
    open_rows,
    read_mixture,
    read_registry,
    read_rows,
)
from llava_compat.data.media import make_reference
from vila_hd import VilaHDError
from vila_hd.constants import IMAGE_TOKEN

PIECES = [IMAGE_TOKEN, "<video>", "\n", " ", "a", "{", "\\", '"', "\0", "\ud800", "\u2028", "a.png", "../"]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=5).map("".join)
WORDS = [
    *(
        "id",
        "image",
        "images",
        "box",
        "boxes",
        "conversations",
        "messages",
        "texts",
        "q",
        "a",
        "video",
        "from",
    ),
    *("value", "role", "content", "type", "text", "image_url", "url", "bytes", "path", "user", "assistant"),
    *("human", "gpt", "system"),
]
NUMBERS = st.integers() | st.floats()
ATOMS = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(WORDS) | st.binary(max_size=6)
JUNK = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)
ROLE = st.sampled_from(["human", "gpt", "user", "assistant", "system"])
TURNS = st.lists(st.fixed_dictionaries({"from": ROLE, "value": TEXTS | JUNK}) | JUNK, max_size=5)
ALTERNATING = st.lists(TEXTS, min_size=1, max_size=5).map(
    lambda texts: [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
)
ITEM = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url"])}, optional={"text": TEXTS}
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLE, "content": TEXTS | st.lists(ITEM | JUNK, max_size=3)})
)
PICTURES = st.lists(st.just("a.png") | TEXTS | JUNK, max_size=3)
BOXES = st.lists(st.integers(0, 50) | NUMBERS | JUNK, min_size=3, max_size=5)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": JUNK,
        "conversations": ALTERNATING | TURNS,
        "messages": MESSAGES | JUNK,
        "texts": st.lists(st.fixed_dictionaries({"user": TEXTS, "assistant": TEXTS}) | JUNK, max_size=3),
        "q": TEXTS,
        "a": TEXTS,
        "image": PICTURES | JUNK,
        "images": PICTURES,
        "box": BOXES | JUNK,
        "boxes": st.lists(st.lists(BOXES, max_size=2) | JUNK, max_size=2),
        "video": st.none() | TEXTS,
    },
)


def check_promises(row: Row) -> None:
    """What the type says about every row."""
    roles = [message.role for message in row.messages]
    turns = roles[roles[0] == "system" :]
    assert turns == ["user", "assistant"] * (len(turns) // 2)
    assert turns
    for message in row.messages:
        for part in message.content:
            if isinstance(part, str):
                part.encode()
                assert IMAGE_TOKEN not in part
            else:
                assert message.role == "user"
    assert len(row.boxes) in (0, len(row.images))
    assert sum(
        item["type"] == "image"
        for m in row.to_chat()
        if not isinstance(m["content"], str)
        for item in m["content"]
    ) == len(row.images)


def check_row(record: Any, media: Path, convention: Any, strict: bool) -> None:
    options = ReadOptions(media=media, convention=convention, strict=strict, check_files=False)
    try:
        row = make_row(record, Source("f", 0), options)
    except VilaHDError:
        return
    check_promises(row)


@contextmanager
def file_of(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def check_file(content: bytes, name: str) -> None:
    """Every problem is reported; none ends the reading in another way."""
    problems: list[DataError] = []
    with file_of(content, name) as path:
        for row in read_rows(path, on_problem=problems.append):
            check_promises(row)
        check_numbered(path)
    for problem in problems:
        assert "\n" not in str(problem)


def check_numbered(path: Path) -> None:
    """The same rows by their numbers."""
    try:
        rows = open_rows(path)
    except VilaHDError:
        return
    for number in range(min(len(rows), 30)):
        try:
            check_promises(rows.row(number))
        except VilaHDError as error:
            assert "\n" not in str(error)  # noqa: PT017


@st.composite
def damaged(draw: Callable[..., Any], content: bytes) -> bytes:
    """``content`` with pieces cut out, doubled or overwritten."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        new = draw(
            st.sampled_from([b"", content[start:stop] * 2, b"\xff", b"[", b"}", b"0"]) | st.binary(max_size=8)
        )
        content = content[:start] + new + content[stop:]
    return content


RECORDS = [
    {
        "id": 1,
        "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "A"}],
        "image": "a.png",
    },
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "A"}], "box": None},
    {"q": "q", "a": "A \u2603"},
]
ARRAY = json.dumps(RECORDS, indent=1).encode()
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()


def _columns(kind: str) -> bytes:
    table = pa.Table.from_pylist(
        [{"id": i, "texts": [{"user": "q", "assistant": "A"}], "images": []} for i in range(20)]
    )
    sink = pa.BufferOutputStream()
    if kind == "parquet":
        pa.parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


COLUMNS = {kind: _columns(kind) for kind in ("parquet", "arrow")}
TEXT_FILES = st.one_of(
    damaged(ARRAY),
    damaged(LINES),
    st.binary(max_size=60),
    st.lists(ROWS.map(repr), max_size=3).map(lambda x: "\n".join(x).encode("utf-8", "replace")),
)
COLUMN_FILES = st.sampled_from(["parquet", "arrow"]).flatmap(
    lambda k: damaged(COLUMNS[k]).map(lambda c: (k, c))
)


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for record in RECORDS:
            _member(archive, f"{record.get('id', 'x')}.json", json.dumps(record).encode())
        _member(archive, "deep/" + "n" * 120 + ".txt", b"a wall")  # with an extended header
        _member(archive, "b.png", b"no picture")
    return content.getvalue()


ARCHIVE = _archive()
SIZES = st.integers(-(2**70), 2**70) | st.sampled_from([-512, -1024, -1536, 0, 1, 511, 2**40])


@st.composite
def archives(draw: Callable[..., Any]) -> bytes:
    """``ARCHIVE`` damaged, or with a header of another size or kind whose checksum is right."""
    content = draw(damaged(ARCHIVE))
    for _ in range(draw(st.integers(0, 2))):
        at = 512 * draw(st.integers(0, max(0, len(content) // 512 - 1)))
        header = bytearray(content[at : at + 512].ljust(512, b"\0"))
        size = draw(SIZES)
        header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
        header[156:157] = draw(st.sampled_from([b"0", b"5", b"2", b"x", b"g", b"L", b"S", b"\0"]))
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = content[:at] + bytes(header) + content[at + 512 :]
    return content


NAMES = st.sampled_from(["a", "b", "m"]) | TEXTS
ENTRY = st.dictionaries(
    st.sampled_from(["_target_", "data_path", "media_dir", "is_video", "no_system_prompt", "system_prompt"])
    | TEXTS,
    st.sampled_from(["llava.data.LLaVADataset", "rows.jsonl"]) | st.booleans() | TEXTS | st.none(),
    max_size=4,
)
REGISTRY = st.dictionaries(NAMES | st.integers(), ENTRY | st.lists(NAMES, max_size=3) | TEXTS, max_size=4)
YAML_TEXT = REGISTRY.map(lambda x: yaml.safe_dump(x, allow_unicode=False)) | TEXTS
MIXTURES = st.lists(NAMES | st.sampled_from(["*2", "@a", "+", "*", "@", "*99999"]), max_size=6).map("".join)


def check_registry(text: str, mixture: str) -> None:
    with file_of(LINES, "rows.jsonl") as path:
        registry = path.parent / "r.yaml"
        registry.write_text(text, encoding="utf-8", errors="replace")
        try:
            for number, row in enumerate(read_mixture(mixture, read_registry(registry), slices=path.parent)):
                check_promises(row)
                if number > 20:
                    return
        except VilaHDError:
            return


def check_path(name: Any, media: Path, check_files: bool) -> None:
    try:
        reference = make_reference(name, media, check_files=check_files)
    except VilaHDError:
        return
    if isinstance(reference.picture, Path):
        inside = os.path.realpath(reference.picture)
        assert inside.startswith(os.path.realpath(media) + os.sep)


PATHS = st.lists(
    st.sampled_from(["..", ".", "/", "a.png", "deep", "\\", "~", "file:", "\0", " "]), max_size=6
).map("/".join)


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S"])
@pytest.mark.parametrize("size", [-1, -512, -1024, -(10**6), 2**40, 2**60])
def test_sizes_that_no_file_has_are_refused(size: int, kind: bytes) -> None:
    """tarfile would read such a place for ever, or take all memory."""
    header = bytearray(ARCHIVE[:512])
    header[156:157] = kind
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    problems: list[DataError] = []
    with file_of(ARCHIVE[:1024] + bytes(header) + bytes(1024), "r.tar") as path:
        rows = list(read_rows(path, on_problem=problems.append))
    assert len(rows) <= 1
    assert problems
    assert all("\n" not in str(problem) for problem in problems)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "rows.pkl"])
def test_rows_of_archives_name_no_files_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "r.tar", "w") as archive:
        _member(archive, "../../x.json", json.dumps({**RECORDS[0], "image": name}).encode())
    with pytest.raises(DataError) as caught:
        next(read_rows(tmp_path / "set" / "r.tar"))
    assert caught.value.kind == "image path"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.png", "set"]


class TestDefault:
    """Few cases, in every run."""

    @settings(max_examples=60, deadline=None)
    @given(record=ROWS | JUNK, convention=st.sampled_from(CONVENTIONS), strict=st.booleans())
    def test_rows(self, record: Any, convention: Any, strict: bool, media: Path) -> None:
        check_row(record, media, convention, strict)

    @settings(max_examples=40, deadline=None)
    @given(content=TEXT_FILES, name=st.sampled_from(["r.json", "r.jsonl"]))
    def test_text_files(self, content: bytes, name: str) -> None:
        check_file(content, name)

    @settings(max_examples=20, deadline=None)
    @given(file=COLUMN_FILES)
    def test_column_files(self, file: tuple[str, bytes]) -> None:
        check_file(file[1], f"r.{file[0]}")

    @settings(max_examples=40, deadline=None)
    @given(content=archives())
    def test_archives(self, content: bytes) -> None:
        check_file(content, "r.tar")

    @settings(max_examples=30, deadline=None)
    @given(text=YAML_TEXT, mixture=MIXTURES)
    def test_registries(self, text: str, mixture: str) -> None:
        check_registry(text, mixture)

    @settings(max_examples=40, deadline=None)
    @given(name=PATHS | TEXTS | JUNK, check_files=st.booleans())
    def test_paths(self, name: Any, check_files: bool, media: Path) -> None:
        check_path(name, media, check_files)


@pytest.mark.slow
class TestAtLength:
    """The same with many cases."""

    @settings(max_examples=1500, deadline=None)
    @given(record=ROWS | JUNK, convention=st.sampled_from(CONVENTIONS), strict=st.booleans())
    def test_rows(self, record: Any, convention: Any, strict: bool, media: Path) -> None:
        check_row(record, media, convention, strict)

    @settings(max_examples=800, deadline=None)
    @given(content=TEXT_FILES, name=st.sampled_from(["r.json", "r.jsonl"]))
    def test_text_files(self, content: bytes, name: str) -> None:
        check_file(content, name)

    @settings(max_examples=600, deadline=None)
    @given(file=COLUMN_FILES)
    def test_column_files(self, file: tuple[str, bytes]) -> None:
        check_file(file[1], f"r.{file[0]}")

    @settings(max_examples=800, deadline=None)
    @given(content=archives())
    def test_archives(self, content: bytes) -> None:
        check_file(content, "r.tar")

    @settings(max_examples=500, deadline=None)
    @given(text=YAML_TEXT, mixture=MIXTURES)
    def test_registries(self, text: str, mixture: str) -> None:
        check_registry(text, mixture)

    @settings(max_examples=600, deadline=None)
    @given(name=PATHS | TEXTS | JUNK, check_files=st.booleans())
    def test_paths(self, name: Any, check_files: bool, media: Path) -> None:
        check_path(name, media, check_files)
