"""Tensors of model folders, read and written one at a time.

Files are read with plain reads, never mapped: a mapped file counts towards the process's memory as far as it
was touched, which would double what loading takes.
"""

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vila_hd.checkpoint_files import TensorInfo, read_tensors
from vila_hd.errors import VilaHDError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""safetensors dtype -> torch dtype."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The other way round."""

CHUNK = 2**20
"""Numbers that are converted at a time when a tensor changes its dtype."""

SHARD_BYTES = 5 * 10**9
"""Bytes of one weight file before another is begun, as the published folders have it."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a checkpoint: what it is, and how to get it."""

    source: str
    """Where it comes from, for reports: file and stored name."""

    shape: Shape
    dtype: torch.dtype
    """As stored."""

    fill: Callable[[Tensor], None]
    """Writes its first numbers, as many as the given contiguous CPU tensor holds, in the dtype of that."""

    def read(self, dtype: torch.dtype) -> Tensor:
        """Its values on the CPU, in memory of their own."""
        value = torch.empty(self.shape, dtype=dtype)
        self.fill(value)
        return value

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def open_folder(folder: Path, label: str) -> dict[str, LazyTensor]:
    """The tensors of one folder of weights by their stored names.

    Args:
        folder: holds ``model.safetensors``, or an index and its files.
        label: what to call the folder in reports; may be empty.

    Raises:
        VilaHDError: no weights, pickles only, a broken file, or a dtype that is not read.
    """
    return {
        name: from_file(folder / info.file, name, info, f"{label}{'/' if label else ''}{info.file}:{name}")
        for name, info in read_tensors(folder).items()
    }


def from_file(path: Path, name: str, info: TensorInfo, source: str) -> LazyTensor:
    """One tensor of a safetensors file.

    Raises:
        VilaHDError: a dtype that torch does not have.
    """
    if info.dtype not in DTYPES:
        raise VilaHDError(f"{path}: {name} is {info.dtype}; convert it to one of {', '.join(DTYPES)}")
    stored = DTYPES[info.dtype]

    def fill(value: Tensor) -> None:
        if value.is_floating_point() and not stored.is_floating_point:
            raise VilaHDError(f"{path}: {name} is {info.dtype}, expected a floating-point dtype")
        try:
            with path.open("rb") as file:
                file.seek(info.start)
                _fill(value, file, stored)
        except (OSError, EOFError) as error:
            raise VilaHDError(f"{path}: cut off or changed while {name} was read; get it again") from error

    return LazyTensor(source, info.shape, stored, fill)


def _fill(value: Tensor, file: BinaryIO, stored: torch.dtype) -> None:
    flat = value.view(-1)
    if value.dtype == stored:
        _read_exactly(flat, file)
        return
    if not len(flat):
        return
    # Memory of its own kind: blocks from the heap, freed between blocks that stay, leave holes in it.
    buffer = mmap.mmap(-1, min(len(flat), CHUNK) * stored.itemsize)
    raw = torch.frombuffer(buffer, dtype=stored)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        _read_exactly(raw[: len(part)], file)
        part.copy_(raw[: len(part)])


def _read_exactly(flat: Tensor, file: BinaryIO) -> None:
    if not flat.numel():
        return
    view = _bytes_of(flat)
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        view = view[count:]


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def from_tensor(name: str, tensor: Tensor) -> LazyTensor:
    """A tensor that is in memory already."""

    def fill(value: Tensor) -> None:
        value.view(-1).copy_(tensor.detach().reshape(-1)[: value.numel()])

    return LazyTensor(name, tuple(tensor.shape), tensor.dtype, fill)


def with_rows(tensor: LazyTensor, rows: int) -> LazyTensor:
    """``tensor`` cut to its first ``rows`` rows, or with the mean of its rows in those that are new."""
    if not tensor.shape or tensor.shape[0] == rows:
        return tensor

    def fill(value: Tensor) -> None:
        old = value[: tensor.shape[0]]
        tensor.fill(old)
        value[tensor.shape[0] :] = old.mean(0, dtype=torch.float32)

    source = f"{tensor.source} ({tensor.shape[0]} rows)"
    return LazyTensor(source, (rows, *tensor.shape[1:]), tensor.dtype, fill)


def write_file(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype | None,
    done: Callable[[int], object] = lambda size: None,
) -> None:
    """Write one safetensors file, holding one tensor in memory at a time.

    Args:
        path: the file.
        tensors: by the names to store.
        dtype: of floating-point tensors in the file; None: as they are.
        done: called with the bytes of each tensor once it is written.
    """
    # Large elements first, so that every tensor starts at a multiple of its element size.
    order = sorted(tensors, key=lambda name: (-stored_dtype(tensors[name], dtype).itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        end = position + stored_bytes(tensors[name], dtype)
        kind = NAMES[stored_dtype(tensors[name], dtype)]
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)))
        file.write(raw)
        for name in order:
            value = tensors[name].read(stored_dtype(tensors[name], dtype))
            if value.numel():
                file.write(_bytes_of(value.view(-1)))
            done(value.nbytes)


def write_folder(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype | None,
    done: Callable[[int], object] = lambda size: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``model.safetensors``, or several files and their index; arguments as for ``write_file``."""
    shards = _split(tensors, dtype, shard_bytes)
    if len(shards) == 1:
        write_file(folder / "model.safetensors", tensors, dtype, done)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in names}, dtype, done)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(stored_bytes(tensor, dtype) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _split(
    tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None, shard_bytes: int
) -> Sequence[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        more = stored_bytes(tensor, dtype)
        if shards[-1] and size + more > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    return shards


def stored_dtype(tensor: LazyTensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype in which ``tensor`` is written when floating-point tensors become ``dtype``."""
    return tensor.dtype if dtype is None or not tensor.dtype.is_floating_point else dtype


def stored_bytes(tensor: LazyTensor, dtype: torch.dtype | None) -> int:
    """Its bytes in a file."""
    return tensor.num_elements * stored_dtype(tensor, dtype).itemsize


def total_bytes(tensors: Iterable[LazyTensor], dtype: torch.dtype | None) -> int:
    """Bytes of all of them in a file."""
    return sum(stored_bytes(tensor, dtype) for tensor in tensors)
