"""VILA's registry of data sets and its mixtures.

A registry is a YAML file: name of a data set -> where its rows and pictures are. A mixtures file maps names
to lists of names. A mixture is a text such as ``a+b*2+c@subset``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .files import iterate_records
from .formats import ReadOptions
from .problems import DataError, Record, brief
from .reading import OnProblem, make_rows
from .rows import Row
from .turns import Convention

TARGETS: Mapping[str, Convention] = {
    "llava.data.LLaVADataset": "registry",
    "llava.data.hf_parquet.HFParquetDataset": "registry",
    "llava.data.LLaVANextDataset": "interleaved",
    "llava.data.LazySupervisedDataset": "legacy",
    "llava.data.LazyQAGroundingDataset": "legacy",
    "llava.data.LazyHighResQADataset": "legacy",
}
"""Classes of VILA whose data sets are read -> where their pictures go."""

ENTRY_KEYS = (
    *("_target_", "data_path", "media_dir", "is_video", "no_system_prompt", "system_prompt"),
    "resample_on_failure",
)
"""Keys of a registry entry."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TERM = re.compile(rf"({_NAME.pattern})(?:@({_NAME.pattern}))?(?:\*([0-9]{{1,4}}))?")

MAX_TERMS = 10_000
"""Data sets that a mixture may expand to."""


@dataclass(frozen=True)
class Entry:
    """One data set of a registry."""

    name: str
    data: Path
    options: ReadOptions


@dataclass(frozen=True)
class Part:
    """One data set of a mixture."""

    name: str
    subset: str | None = None
    """List of rows to leave out, by its name."""

    repeats: int = 1


@dataclass(frozen=True)
class Registry:
    """Data sets and mixtures by name. Entries are checked when they are used."""

    entries: Mapping[str, tuple[Any, Path]] = field(default_factory=dict)
    """Name -> what the file says, and the folder that its paths are relative to."""

    mixtures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def entry(self, name: str) -> Entry:
        """The data set ``name``.

        Raises:
            DataError: there is none, or its entry cannot be used.
        """
        if name not in self.entries:
            known = ", ".join(sorted({*self.entries, *self.mixtures})[:20]) or "none"
            raise DataError(f"data set {name!r} is not in the registry; known: {known}")
        values, folder = self.entries[name]
        return _make_entry(name, values, folder)

    def expand(self, mixture: str) -> list[Part]:
        """Data sets of a mixture, sorted by name; names of mixtures become what they stand for.

        Raises:
            DataError: not a mixture, an unknown name, or a mixture that contains itself.
        """
        parts = list(self._expand(mixture, ()))
        return sorted(parts, key=lambda part: (part.name, part.subset or "", part.repeats))

    def _expand(self, mixture: str, inside: tuple[str, ...]) -> Iterator[Part]:
        count = 0
        for term in mixture.split("+"):
            match = _TERM.fullmatch(term.strip())
            if match is None:
                raise DataError(
                    f"mixture {brief(mixture)}: {brief(term)} is no term of it; write name, name*2 or "
                    "name@subset, joined by +"
                )
            name, subset, repeats = match[1], match[2], int(match[3] or 1)
            if name not in self.mixtures:
                self.entry(name)
                parts = [Part(name, subset, repeats)]
            elif name in inside:
                raise DataError(f"mixture {name!r} contains itself: {' -> '.join((*inside, name))}")
            elif subset is not None:
                raise DataError(f"{brief(term)}: {name!r} is a mixture; subsets belong to data sets")
            else:
                inner = self._expand("+".join(self.mixtures[name]), (*inside, name))
                parts = [Part(p.name, p.subset, p.repeats * repeats) for p in inner]
            count += len(parts)
            if count > MAX_TERMS:
                raise DataError(f"mixture {brief(mixture)} expands to more than {MAX_TERMS} data sets")
            yield from parts


def read_registry(*paths: Path) -> Registry:
    """Registry of YAML files: an entry that is a list of names is a mixture, a mapping is a data set.

    Raises:
        DataError: a file cannot be read, or a name occurs twice.
    """
    entries: dict[str, tuple[Any, Path]] = {}
    mixtures: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for name, values in _read_yaml(path).items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise DataError(f"{path}: name {brief(name)}; use letters, digits, '_', '-' and '.'")
            if name in entries or name in mixtures:
                raise DataError(f"{path}: {name!r} is defined twice; rename one of them")
            if isinstance(values, list):
                if not values or not all(isinstance(value, str) for value in values):
                    raise DataError(f"{path}: mixture {name!r} is {brief(values)}; give a list of names")
                mixtures[name] = tuple(values)
            else:
                entries[name] = (values, path.parent)
    return Registry(entries, mixtures)


def read_mixture(
    mixture: str,
    registry: Registry,
    *,
    slices: Path | None = None,
    strict: bool = False,
    check_files: bool = True,
    on_problem: OnProblem | None = None,
) -> Iterator[Row]:
    """Rows of all data sets of a mixture, one data set after the other.

    Args:
        mixture: such as ``a+b*2+c@subset``.
        registry: what its names mean.
        slices: folder with ``<subset>/<name>.json``: numbers of the rows that ``name@subset`` leaves out.
        strict: see ``ReadOptions``.
        check_files: see ``ReadOptions``.
        on_problem: see ``read_rows``.

    Raises:
        DataError: an unknown name, a missing file; without ``on_problem``, also the first broken row.
    """
    records = iterate_mixture(mixture, registry, slices=slices)
    for record, base in records:
        options = replace(base, strict=strict, check_files=check_files)
        yield from make_rows([record], options, on_problem=on_problem)


def iterate_mixture(
    mixture: str, registry: Registry, *, slices: Path | None = None
) -> Iterator[tuple[Record, ReadOptions]]:
    """Records of all data sets of a mixture, each with how to read it; arguments as for ``read_mixture``."""
    for part in registry.expand(mixture):
        entry = registry.entry(part.name)
        left_out = read_slice(part, slices)
        for _ in range(part.repeats):
            for record in iterate_records(entry.data):
                if record[0].index not in left_out:
                    yield record, entry.options


def read_slice(part: Part, slices: Path | None) -> frozenset[int]:
    """Numbers of the rows that a part of a mixture leaves out.

    Raises:
        DataError: the list cannot be read.
    """
    if part.subset is None:
        return frozenset()
    if slices is None:
        raise DataError(f"{part.name}@{part.subset}: subsets need the folder of slices (--slices)")
    path = slices / part.subset / f"{part.name}.json"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "nested too deeply"
        raise DataError(f"{path}: the row numbers cannot be read ({reason}); give a JSON list") from error
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise DataError(f"{path}: {brief(numbers)}; give a JSON list of row numbers")
    return frozenset(numbers)


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml  # not needed to read single files of rows

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the name") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise DataError(f"{path}: not valid YAML ({str(error)[:160]})", kind="broken file") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected data sets by name, got {brief(values)}")
    return values


def _make_entry(name: str, values: Any, folder: Path) -> Entry:
    where = f"data set {name!r}"
    if not isinstance(values, Mapping):
        raise DataError(f"{where} is {brief(values)}; give _target_, data_path and media_dir")
    if unknown := sorted(str(key) for key in values if key not in ENTRY_KEYS):
        raise DataError(f"{where}: unknown key(s) {unknown}; known: {', '.join(ENTRY_KEYS)}")
    target = values.get("_target_", "llava.data.LLaVADataset")
    if not isinstance(target, str) or target not in TARGETS:
        raise DataError(f"{where}: _target_ {brief(target)} is not read; use one of {', '.join(TARGETS)}")
    if values.get("is_video"):
        raise DataError(f"{where}: videos are not read; save frames as pictures", kind="video")
    data = _path(values.get("data_path"), folder, f"{where}: data_path")
    media = values.get("media_dir")
    options = ReadOptions(
        media=data.parent if media is None else _path(media, folder, f"{where}: media_dir"),
        convention=TARGETS[target],
        system=_system(values, where),
    )
    return Entry(name, data, options)


def _path(value: Any, folder: Path, where: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f"{where} is {brief(value)}; give a file name")
    if "://" in value:
        raise DataError(
            f"{where} {brief(value)}: addresses are not fetched; download it and give its file name"
        )
    return folder / value


def _system(values: Mapping[Any, Any], where: str) -> str | None:
    none, text = values.get("no_system_prompt"), values.get("system_prompt")
    if none and text is not None:
        raise DataError(f"{where}: no_system_prompt and system_prompt exclude each other; keep one")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: system_prompt is {brief(text)}; give one text")
    return "" if none else text
