"""Strict YAML -> dataclass loader: values live in YAML; types, defaults and documentation live in
dataclasses.

Unknown keys, wrong types and missing values are errors that name the dotted path. One optional ``base:``
parent per file, no templating, no class names in YAML.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ..errors import VilaHDError

T = TypeVar("T")

BASE_KEY = "base"
"""Key of the optional parent file, relative to the file that names it."""


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Build a dataclass from a YAML file.

    Args:
        cls: a dataclass; its fields, types and defaults are the schema.
        path: the YAML file; its ``base:`` parent, if any, is read first.
        overrides: ``"a.b=value"`` strings, applied last; values are parsed as YAML.

    Raises:
        VilaHDError: the file cannot be read, or a key, type or value does not fit ``cls``.
    """
    raw = read_yaml(path)
    for override in overrides:
        raw = apply_override(raw, override)
    try:
        return from_dict(cls, raw)
    except VilaHDError as error:
        raise VilaHDError(f"{path}: {error}") from error


def read_yaml(path: str | Path, *, _children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Mapping of a YAML file with its ``base:`` parents merged in (mappings merge, all else is replaced).

    Raises:
        VilaHDError: no such file, not YAML, not a mapping, or the ``base:`` chain goes round in a circle.
    """
    import yaml  # a dependency of transformers, imported here to keep ``import vila_hd`` light

    path = Path(path)
    if path.resolve() in _children:
        chain = " -> ".join(str(child) for child in (*_children, path.resolve()))
        raise VilaHDError(f"{path}: 'base' goes round in a circle: {chain}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VilaHDError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VilaHDError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise VilaHDError(f"{path}: expected a mapping at the top level, got {type(raw).__name__}")
    base = raw.pop(BASE_KEY, None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise VilaHDError(f"{path}: base: expected the name of one file, got {base!r}")
    return merge(read_yaml(path.parent / base, _children=(*_children, path.resolve())), raw)


def merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """``child`` over ``parent``; mappings are merged key by key, everything else is replaced."""
    merged = dict(parent)
    for key, value in child.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def apply_override(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    """``raw`` with one ``"a.b=value"`` applied.

    Raises:
        VilaHDError: no ``=``, an empty key, a value that is not YAML, or a path through a plain value.
    """
    import yaml

    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise VilaHDError(f"override {override!r}: write it as key.path=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise VilaHDError(f"override {override!r}: the value is not valid YAML") from error
    for part in reversed(parts[1:]):
        value = {part: value}
    if isinstance(value, dict) and raw.get(parts[0]) is not None and not isinstance(raw[parts[0]], Mapping):
        raise VilaHDError(f"override {override!r}: {parts[0]} is {raw[parts[0]]!r}, not a section")
    return merge(raw, {parts[0]: value})


def from_dict(cls: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a mapping; recurse into dataclass fields; reject what is not declared.

    Args:
        cls: the dataclass.
        raw: its values.
        where: dotted path of ``raw`` inside the whole configuration, for messages.

    Raises:
        VilaHDError: an unknown key, a wrong type, a missing value, or a value that ``cls`` itself refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    label = where or cls.__name__
    unknown = sorted(str(key) for key in set(raw) - set(fields))
    if unknown:
        raise VilaHDError(f"{label}: unknown key(s) {unknown}; known: {sorted(fields)}")
    missing = [
        f"{where}.{name}".lstrip(".")
        for name, field in fields.items()
        if name not in raw
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise VilaHDError(f"{label}: missing value(s) {missing}")
    values = {name: _coerce(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in raw.items()}
    try:
        return cls(**values)
    except VilaHDError:
        raise
    except ValueError as error:  # raised by __post_init__
        raise VilaHDError(f"{label}: {error}") from error


def to_dict(config: Any) -> Any:
    """Plain YAML-ready values of a dataclass: ``from_dict(type(config), to_dict(config)) == config``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _fail(where: str, expected: str, value: Any) -> VilaHDError:
    return VilaHDError(f"{where}: expected {expected}, got {value!r} ({type(value).__name__})")


def _describe(hint: Any) -> str:
    """A type as it is written in an error message."""
    return (
        hint.__name__
        if isinstance(hint, type) and not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` asks for it."""
    origin = typing.get_origin(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(hint, value, where)
    if origin is Literal:
        # "value in choices" would accept True for 1.
        if any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint)):
            return value
        raise _fail(where, "one of " + ", ".join(map(repr, typing.get_args(hint))), value)
    if origin in (tuple, list):
        return _coerce_sequence(hint, value, where)
    if origin in (dict, Mapping) or hint is dict:
        return _coerce_mapping(hint, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise _fail(where, f"a section ({hint.__name__})", value)
        return from_dict(hint, value, where)
    return _coerce_plain(hint, value, where)


def _coerce_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        # YAML 1.1 reads 1e-3 as a string; a float field converts it.
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                raise _fail(where, "a number", value) from None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise _fail(where, "a number", value)
    if hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
        raise _fail(where, "a path", value)
    if hint is type(None):
        if value is None:
            return None
        raise _fail(where, "null", value)
    if type(value) is not hint:  # exact: bool is not an int here
        raise _fail(where, _describe(hint), value)
    return value


def _coerce_union(hint: Any, value: Any, where: str) -> Any:
    choices = typing.get_args(hint)
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if len(choices) == 1:
        return _coerce(choices[0], value, where)
    # An exact match wins over a conversion: "all" stays a string in ``int | float | str``.
    for choice in sorted(choices, key=lambda choice: type(value) is not choice):
        try:
            return _coerce(choice, value, where)
        except VilaHDError:
            continue
    raise _fail(where, " or ".join(_describe(choice) for choice in choices), value)


def _coerce_sequence(hint: Any, value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _fail(where, "a list", value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            raise _fail(where, f"a list of {len(args)} values", value)
        return tuple(
            _coerce(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True))
        )
    return origin(_coerce(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _coerce_mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _fail(where, "a section", value)
    args = typing.get_args(hint) or (str, object)
    return {
        _coerce(args[0], key, where): _coerce(args[1], item, f"{where}.{key}") for key, item in value.items()
    }
