"""The files of a model folder, checked without loading the model: there, intact, and as the config says."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import VilaHDError

if TYPE_CHECKING:
    from .formats import CheckpointFormat

HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header that are believed; the format's own limit."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Element size in bytes per safetensors dtype."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weight files that can run code when they are opened; never read."""


LFS_POINTER = b"version https://git-lfs"
"""How a file begins that git cloned without Git LFS: it only names the real one."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files that a tokenizer can be read from."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int = 0
    """Byte of the file at which its values start; 0 where only the header is at hand."""

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    level: Literal["ok", "note", "problem"]
    topic: str
    text: str
    fix: str = ""
    """What to do about it, for notes and problems."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        VilaHDError: no such file, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VilaHDError(f"{path}: no such file; a model folder needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        _refuse_pointer(path)
        raise VilaHDError(f"{path}: not a readable JSON file ({_first_line(error)}); get it again") from error
    if not isinstance(value, dict):
        raise VilaHDError(f"{path}: holds a {type(value).__name__}, not a JSON object; get it again")
    return value


def _refuse_pointer(path: Path) -> None:
    """Pass unless the file is a Git LFS pointer.

    Raises:
        VilaHDError: it is.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return
    if start == LFS_POINTER:
        raise VilaHDError(f"{path}: a Git LFS pointer, not the file itself; run git lfs pull in its folder")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, from its header; the file must be as long as the header says.

    Raises:
        VilaHDError: cut off, too long, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                _refuse_pointer(path)
                raise VilaHDError(
                    f"{path}: {size} bytes with a header of {length}: cut off or no safetensors; get it again"
                )
            raw = json.loads(file.read(length))
    except OSError as error:
        raise VilaHDError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, VilaHDError):
            raise
        raise VilaHDError(f"{path}: its header is not JSON: not a safetensors file; get it again") from error
    tensors, end = _parse_header(raw, path, 8 + length)
    if size != 8 + length + end:
        raise VilaHDError(
            f"{path}: {size} bytes, but its header describes {8 + length + end}: "
            f"{'cut off' if size < 8 + length + end else 'too long'}; get it again"
        )
    return tensors


def _parse_header(raw: Any, path: Path, data_start: int) -> tuple[dict[str, TensorInfo], int]:
    """``(tensors, bytes of data)``; the data must have neither gaps nor overlaps."""
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    try:
        for name, entry in raw.items():
            if name == "__metadata__":
                continue
            start, end = (int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(side) for side in entry["shape"])
            info = TensorInfo(entry["dtype"], shape, path.name, data_start + start)
            if any(side < 0 for side in shape):
                raise VilaHDError(f"{path}: {name} has shape {shape}; get the file again")
            expected = info.num_elements * DTYPE_BYTES[info.dtype]
            if end - start != expected:
                raise VilaHDError(
                    f"{path}: {name} of shape {info.shape} {info.dtype} needs {expected} bytes, got "
                    f"{end - start}; get the file again"
                )
            tensors[name] = info
            spans.append((start, end, name))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, VilaHDError):
            raise
        raise VilaHDError(f"{path}: its header is malformed ({_first_line(error)}); get it again") from error
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise VilaHDError(
                f"{path}: {name} starts at byte {start}, expected {position}; get the file again"
            )
        position = end
    return tensors, position


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a model folder: one ``model.safetensors``, or the files of its index.

    Raises:
        VilaHDError: no weights, pickles only, a broken file, or files that do not agree with the index.
    """
    if not folder.is_dir():
        raise VilaHDError(f"{folder}: no such folder; name a model folder")
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        return _read_indexed(folder, read_json(index))
    if single.exists():
        return read_header(single)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise VilaHDError(
            f"{folder}: only {pickles[0]}, a pickle, which can run code when opened and is never loaded; "
            "convert it to safetensors"
        )
    raise VilaHDError(f"{folder}: no model.safetensors and no model.safetensors.index.json; get the weights")


def _read_indexed(folder: Path, index: Mapping[str, Any]) -> dict[str, TensorInfo]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise VilaHDError(f"{folder}/model.safetensors.index.json: no usable weight_map; get it again")
    files = sorted(set(weight_map.values()))
    for file in files:
        if Path(file).name != file:
            raise VilaHDError(
                f"{folder}/model.safetensors.index.json: {file!r} is outside the folder; get it again"
            )
    if missing := [repr(file[:80]) for file in files if not (folder / file).exists()]:
        raise VilaHDError(
            f"{folder}: {len(missing)} of the {len(files)} weight files of its index are missing: "
            f"{_some(missing)}; get the whole folder"
        )
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        found = read_header(folder / file)
        if twice := sorted(set(found) & set(tensors)):
            raise VilaHDError(
                f"{folder}: {len(twice)} tensors are in more than one file, e.g. {twice[0]}; get it again"
            )
        tensors.update(found)
    named = set(weight_map)
    if lost := sorted(named - set(tensors)):
        raise VilaHDError(f"{folder}: the index names {len(lost)} tensors that no file holds, e.g. {lost[0]}")
    if extra := sorted(set(tensors) - named):
        raise VilaHDError(f"{folder}: {len(extra)} tensors are not in the index, e.g. {extra[0]}")
    return tensors


def require_intact(folder: Path) -> None:
    """Pass when the files of a model folder can be loaded at all: whole weights, readable JSON, a tokenizer.

    Reads headers only, so it takes no time; what loading itself finds out (names, shapes, NaN) is left to it.

    Raises:
        VilaHDError: the first thing that is wrong.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind is None:
        raise VilaHDError(f"{folder / 'config.json'}: no model_type; use the config.json of a saved model")
    if kind != "vila_hd":
        raise VilaHDError(
            f"{folder}: a {kind!r} model, not a VILA-HD one; vila_hd.compose builds one from a tower and a "
            "language model"
        )
    for path in sorted(folder.glob("*.json")):
        values = read_json(path)
        if path.name == "tokenizer.json" and not {"model", "added_tokens"} <= set(values):
            raise VilaHDError(f"{path}: describes no tokenizer; get it again")
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise VilaHDError(
            f"{folder}: no tokenizer (neither {' nor '.join(TOKENIZERS)}); get the whole folder"
        )
    read_tensors(folder)


def check_checkpoint(folder: Path) -> Iterator[Finding]:
    """Everything that can be said about a model folder without running it, most basic things first.

    Yields findings one by one, because reading all values of a large model takes a while.
    """
    from .adapters import base_of, describe_adapter, is_adapter
    from .formats import find_format

    if is_adapter(folder):
        try:
            base = Path(base_of(folder))
            yield Finding("ok", "adapter", f"{describe_adapter(folder)}; its base is {base}")
        except VilaHDError as error:
            yield Finding("problem", "adapter", str(error))
            return
        if base.is_dir():
            yield from check_checkpoint(base)
        return
    other = find_format(folder)
    if other is not None:
        yield from _check_other(folder, other)
        return
    try:
        config = read_json(folder / "config.json") if folder.is_dir() else None
        tensors = read_tensors(folder)
    except VilaHDError as error:
        yield Finding("problem", "files", str(error))
        return
    yield _describe_files(tensors)
    yield from _check_structure(folder, config or {}, tensors)
    yield from _check_values(folder, _files_of(tensors))
    yield from _check_processor(folder, config or {})


def _files_of(tensors: Mapping[str, TensorInfo]) -> list[str]:
    return sorted({info.file for info in tensors.values()})


def _describe_files(tensors: Mapping[str, TensorInfo]) -> Finding:
    kinds = ", ".join(sorted({info.dtype for info in tensors.values()}))
    total = sum(info.num_elements for info in tensors.values())
    files = len(_files_of(tensors))
    text = f"{len(tensors)} tensors, {total:,} numbers ({kinds}) in {files} file(s), whole"
    return Finding("ok", "files", text)


def _check_other(folder: Path, layout: "CheckpointFormat") -> Iterator[Finding]:
    """A folder in another layout, which its format reads as a whole."""
    try:
        _, _, tensors = layout.describe(folder, None)
    except VilaHDError as error:
        yield Finding("problem", "structure", str(error))
        return
    yield _describe_files(tensors)
    yield Finding("ok", "structure", f"every name and shape is as its config files say ({layout.label})")
    yield from _check_values(folder, _files_of(tensors))
    yield Finding("ok", "tokenizer", "read, with its chat template")


def _check_structure(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> Iterator[Finding]:
    """Names and shapes against the model that the config describes, built without memory for its weights."""
    kind = config.get("model_type")
    if kind not in ("vila_hd",):
        yield Finding("note", "structure", f"names and shapes are not compared for model type {kind!r}")
        return
    import torch

    from .configuration_vila_hd import VilaHDConfig
    from .modeling_vila_hd import VilaHDForConditionalGeneration

    try:
        with torch.device("meta"):
            model = VilaHDForConditionalGeneration(VilaHDConfig.from_pretrained(folder))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        yield Finding(
            "problem", "structure", f"config.json describes no model ({_first_line(error)})", "get it again"
        )
        return
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = sorted(set(expected) - set(tensors) - tied)
    extra = sorted(set(tensors) - set(expected))
    wrong = [n for n in sorted(set(expected) & set(tensors)) if expected[n] != tensors[n].shape]
    fix = "use the config.json that belongs to these weights"
    if missing:
        yield Finding("problem", "structure", f"{len(missing)} missing tensor(s): {_some(missing)}", fix)
    if extra:
        yield Finding("problem", "structure", f"{len(extra)} unexpected tensor(s): {_some(extra)}", fix)
    for name in wrong[:4]:
        yield Finding(
            "problem", "structure", f"{name} is {tensors[name].shape}, expected {expected[name]}", fix
        )
    if not (missing or extra or wrong):
        yield Finding("ok", "structure", f"every name and shape is as config.json says ({kind})")


def _check_values(folder: Path, files: list[str]) -> Iterator[Finding]:
    """Whether all values are finite, and whether some look like memory that nobody wrote to."""
    from safetensors import SafetensorError, safe_open

    broken, wild = [], []
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    values = handle.get_tensor(name)
                    if not values.is_floating_point():
                        continue
                    largest = values.float().abs().max().item() if values.numel() else 0.0
                    if not largest < float("inf"):  # also NaN
                        broken.append(name)
                    elif largest > 1e6:
                        wild.append(f"{name} (up to {largest:.1e})")
        except (SafetensorError, OSError) as error:
            yield Finding("problem", "values", f"{file}: {_first_line(error)}", "get the file again")
            return
    if broken:
        fix = "get an intact copy of the weights"
        yield Finding(
            "problem", "values", f"NaN or infinite values in {len(broken)} tensor(s): {_some(broken)}", fix
        )
    if wild:
        yield Finding(
            "note", "values", f"suspiciously large: {_some(wild)}", "uninitialised memory looks like this"
        )
    if not broken and not wild:
        yield Finding("ok", "values", "all finite")


def _check_processor(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Tokenizer, image processor and chat template of a folder that is meant to chat."""
    if config.get("model_type") != "vila_hd":
        return
    for topic, names in (
        ("tokenizer", TOKENIZERS),
        ("image processor", ("processor_config.json", "preprocessor_config.json")),
    ):
        found = [name for name in names if (folder / name).exists()]
        if found:
            yield Finding("ok", topic, ", ".join(found))
        else:
            yield Finding("problem", topic, f"neither {' nor '.join(names)}", "get the whole folder")
    if has_chat_template(folder):
        yield Finding("ok", "chat template", "present")
    else:
        fix = "put the language model's template into chat_template.jinja (vila_hd.add_pictures_to_template)"
        yield Finding("problem", "chat template", "none", fix)


def has_chat_template(folder: Path) -> bool:
    """Whether a template is in any of the places where transformers looks for it."""
    if (folder / "chat_template.jinja").exists():
        return True
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / name).exists() and read_json(folder / name).get("chat_template"):
            return True
    return False


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
