"""Registry files and mixtures: which rows are read, how often and how; and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_compat.data import DataError, Registry, read_mixture, read_registry

PAIRS = [{"id": f"r{i}", "q": f"question {i}", "a": "So."} for i in range(4)]


@pytest.fixture
def folder(tmp_path: Path, media: Path) -> Path:
    """``registry.yaml`` with the sets a, b and c, mixtures, and a slice of b."""
    (tmp_path / "rows.json").write_text(json.dumps(PAIRS))
    pictures = [
        {
            "id": "p",
            "image": "a.png",
            "conversations": [{"from": "human", "value": "x<image>"}, {"from": "gpt", "value": "y"}],
        }
    ]
    (tmp_path / "pictures.json").write_text(json.dumps(pictures))
    registry = {
        "b": {"_target_": "llava.data.LLaVADataset", "data_path": "rows.json", "resample_on_failure": False},
        "a": {"data_path": "pictures.json", "media_dir": str(media), "no_system_prompt": True},
        "c-1.5": {
            "_target_": "llava.data.LazySupervisedDataset",
            "data_path": str(tmp_path / "pictures.json"),
            "media_dir": str(media),
            "system_prompt": "Be brief.",
        },
        "both": ["a", "b*2"],
        "all": ["c-1.5", "both"],
    }
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(registry))
    (tmp_path / "slices" / "odd").mkdir(parents=True)
    (tmp_path / "slices" / "odd" / "b.json").write_text("[1, 3]")
    return tmp_path


@pytest.fixture
def registry(folder: Path) -> Registry:
    return read_registry(folder / "registry.yaml")


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ("b+a", ["a", "b"]),
        ("b*3", ["b*3"]),
        ("both", ["a", "b*2"]),
        ("both*2 + a", ["a", "a*2", "b*4"]),
        ("all", ["a", "b*2", "c-1.5"]),
        ("b@odd*2", ["b@odd*2"]),
    ],
)
def test_mixtures_expand_in_alphabetical_order(mixture: str, expected: list[str], registry: Registry) -> None:
    names = [
        part.name
        + (f"@{part.subset}" if part.subset else "")
        + (f"*{part.repeats}" if part.repeats > 1 else "")
        for part in registry.expand(mixture)
    ]
    assert names == expected


def test_rows_of_a_mixture(registry: Registry, folder: Path) -> None:
    rows = list(read_mixture("both+b@odd", registry, slices=folder / "slices"))
    assert [row.id for row in rows] == ["p", "r0", "r1", "r2", "r3", "r0", "r1", "r2", "r3", "r0", "r2"]


def test_entries_say_how_their_rows_are_read(registry: Registry) -> None:
    first, legacy = read_mixture("a+c-1.5", registry)
    assert [part if isinstance(part, str) else part.name for part in first.messages[1].content] == [
        "a.png",
        "x",
    ]
    assert first.messages[0].content == ("",)
    assert [part if isinstance(part, str) else part.name for part in legacy.messages[1].content] == [
        "x",
        "a.png",
    ]
    assert legacy.messages[0].content == ("Be brief.",)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ("d", "data set 'd' is not in the registry; known: a, all, b, both, c-1.5"),
        ("", "'' is no term of it; write name, name\\*2 or name@subset"),
        ("a++b", "is no term of it"),
        ("a*0x", "is no term of it"),
        ("../a", "is no term of it"),
        ("b@../odd", "is no term of it"),
        ("both@odd", "'both' is a mixture; subsets belong to data sets"),
        ("b@odd", "subsets need the folder of slices"),
    ],
)
def test_mixtures_that_cannot_be_read(mixture: str, words: str, registry: Registry) -> None:
    with pytest.raises(DataError, match=words):
        list(read_mixture(mixture, registry))


def test_mixtures_that_contain_themselves(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("a: [b]\nb: [c, a]\nc: {data_path: x.json}\n")
    with pytest.raises(DataError, match="mixture 'a' contains itself: a -> b -> a"):
        read_registry(tmp_path / "m.yaml").expand("a")


def test_mixtures_that_explode(tmp_path: Path) -> None:
    lines = ["m0: {data_path: x.json}"] + [f"m{i + 1}: [m{i}, m{i}]" for i in range(60)]
    (tmp_path / "m.yaml").write_text("\n".join(lines))
    with pytest.raises(DataError, match="expands to more than 10000 data sets"):
        read_registry(tmp_path / "m.yaml").expand("m60")


@pytest.mark.parametrize("text", ["[1", "{}", "[true]", '["1"]', "[" * 100_000])
def test_slices_that_cannot_be_read(text: str, registry: Registry, folder: Path) -> None:
    (folder / "slices" / "odd" / "b.json").write_text(text)
    with pytest.raises(DataError, match=r"odd/b.json: "):
        list(read_mixture("b@odd", registry, slices=folder / "slices"))
    with pytest.raises(DataError, match=r"even/b.json: the row numbers cannot be read .No such file"):
        list(read_mixture("b@even", registry, slices=folder / "slices"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("x", "data set 's' is 'x'; give _target_, data_path and media_dir"),
        ({"data_path": "rows.json", "fps": 2}, "unknown key\\(s\\) \\['fps'\\]; known: _target_, data_path"),
        (
            {"_target_": "os.system", "data_path": "a"},
            "_target_ 'os.system' is not read; use one of llava.data",
        ),
        ({"_target_": "llava.data.DummyDataset"}, "_target_ 'llava.data.DummyDataset' is not read"),
        ({"data_path": "rows.json", "is_video": True}, "videos are not read"),
        ({}, "data_path is None; give a file name"),
        ({"data_path": "hf://org/repo/file.json"}, "addresses are not fetched; download it"),
        ({"data_path": "rows.json", "media_dir": 3}, "media_dir is 3"),
        ({"data_path": "r", "no_system_prompt": True, "system_prompt": "x"}, "exclude each other"),
        ({"data_path": "r", "system_prompt": ["x"]}, "system_prompt is \\['x'\\]; give one text"),
        ({"data_path": "rows.pkl"}, "can run code"),
        ({"data_path": "missing.json"}, "no such file"),
    ],
)
def test_entries_that_cannot_be_read(entry: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"s": entry}))
    with pytest.raises(DataError, match=words):
        list(read_mixture("s", read_registry(tmp_path / "r.yaml")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("[" * 1500, "not valid YAML"),
        ("- a", "expected data sets by name, got"),
        ("", "expected data sets by name, got None"),
        ("../x: {data_path: a}", "name '../x'; use letters"),
        ("1: {data_path: a}", "name 1; use letters"),
        ("m: []", "mixture 'm' is \\[\\]; give a list of names"),
        ("m: [1]", "mixture 'm' is \\[1\\]"),
    ],
)
def test_files_that_are_no_registry(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_registry(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_names_are_defined_once(folder: Path) -> None:
    with pytest.raises(DataError, match=r"registry.yaml: 'a(ll)?' is defined twice"):
        read_registry(folder / "registry.yaml", folder / "registry.yaml")
    with pytest.raises(DataError, match=r"no.yaml: cannot be read"):
        read_registry(folder / "no.yaml")
