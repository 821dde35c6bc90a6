"""Resumable checkpoints that are complete or not there: written aside, summed up, renamed; verified first.

``checkpoint-<step>/`` holds the engine's state (``global_step<step>/``), schedule, random generators and
``trainer_state.json``, as transformers names them, and a manifest of every file.
"""

import json
import logging
import os
import re
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from vila_hd.errors import VilaHDError

from .distributed import barrier, gather_objects, rank, same_everywhere, world_size

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL = "checkpoint.partial"
"""Sub-folder of a run folder in which a checkpoint is written; what a killed process leaves there is never
read."""

_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Written:
    """Under which conditions a checkpoint was written."""

    ranks: int
    zero_stage: int


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def start_partial(folder: Path) -> Path:
    """An empty folder to write a checkpoint into; every rank calls it."""
    partial = folder / PARTIAL
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    return partial


def publish(partial: Path, target: Path, written: Written) -> None:
    """Sum up the files of ``partial``, make sure they are on disk, and give the folder its name.

    Every rank calls it, after writing its files.
    """
    barrier()
    names = same_everywhere(_files(partial))
    sums: dict[str, list[int]] = {}
    for part in gather_objects(
        {name: _sum_up(partial / name, sync=True) for name in names[rank() :: world_size()]}
    ):
        sums |= part
    if rank() == 0:
        manifest = {**asdict(written), "files": {name: sums[name] for name in names}}
        with (partial / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync_folder(target.parent)
    barrier()


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the newest ``count`` checkpoints."""
    for path in checkpoints_of(folder)[count:]:
        # Renamed first: a half deleted folder must not pass for a checkpoint.
        doomed = path.with_name(path.name + ".deleted")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; damaged ones are named and passed over.

    Every rank calls it; the work is shared between them.
    """
    names = same_everywhere([path.name for path in checkpoints_of(folder)] if folder.is_dir() else [])
    for name in names:
        problem = find_damage(folder / name)
        if problem is None:
            return folder / name
        if rank() == 0:
            logger.warning("%s is damaged (%s): using the one before", folder / name, problem)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None: nothing. Every rank calls it."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = sorted(manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        mine: str | None = f"no readable {MANIFEST}: {type(error).__name__}"
        files = []
    else:
        mine = None
    for name, expected in files[rank() :: world_size()]:
        if mine is None:
            mine = _compare(checkpoint / name, expected)
    return next((problem for problem in gather_objects(mine) if problem is not None), None)


def _compare(path: Path, expected: list[int]) -> str | None:
    try:
        size = path.stat().st_size
        if size != expected[0]:
            return f"{path.name} has {size} bytes, expected {expected[0]}"
        found = _sum_up(path)
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return None if found == list(expected) else f"{path.name} has another checksum than when it was written"


def check_resumable(checkpoint: Path, now: Written) -> None:
    """Pass when the engine of this run can read ``checkpoint``.

    Raises:
        VilaHDError: it was written by another number of processes or under another ZeRO stage, and its
            optimiser state is cut up accordingly.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    before = Written(manifest["ranks"], manifest["zero_stage"])
    if before.zero_stage != now.zero_stage:
        raise VilaHDError(
            f"{checkpoint} was written under ZeRO stage {before.zero_stage}, this run uses {now.zero_stage}: "
            "go on with the same DeepSpeed file"
        )
    if before.ranks != now.ranks and before.zero_stage:
        raise VilaHDError(
            f"{checkpoint} was written by {before.ranks} process(es) and this run has {now.ranks}: "
            f"under ZeRO stage {before.zero_stage} the optimiser state is cut into parts, so go on with as "
            "many (only stage 0 can change the number)"
        )


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sum_up(path: Path, *, sync: bool = False) -> list[int]:
    """``[bytes, CRC-32]`` of a file, which is first forced onto the disk with ``sync``."""
    total, size = 0, 0
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while chunk := file.read(_CHUNK):
            total, size = zlib.crc32(chunk, total), size + len(chunk)
    return [size, total]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
