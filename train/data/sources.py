"""The data files of a stage, opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_compat.data import ReadOptions, RowSet, open_mixture, open_rows, read_registry
from llava_compat.data.tables import GroupCache, Tables, open_table
from vila_hd.errors import VilaHDError

from .config import CanvasConfig, SourceConfig


@dataclass(frozen=True)
class Source:
    """Rows of one data set and how often they are used."""

    name: str
    rows: RowSet
    share: float
    """Samples from here, relative to the shares of all sources."""

    canvas: CanvasConfig | None = None


def open_sources(configs: Sequence[SourceConfig]) -> list[Source]:
    """All data sets of a stage.

    Raises:
        VilaHDError: one cannot be opened or is empty.
    """
    sources: list[Source] = []
    for config in configs:
        sets = _open(config)
        for rows in sets:
            if not len(rows):
                raise VilaHDError(f"data.sources: {rows.name} has no rows; give another file or leave it out")
        uses = [len(rows) * rows.repeats for rows in sets]
        for rows, count in zip(sets, uses, strict=True):
            share = config.rate * count if config.weight is None else config.weight * count / sum(uses)
            sources.append(Source(rows.name, rows, share, config.canvas))
    return sources


def _open(config: SourceConfig) -> list[RowSet]:
    path = config.path
    if path.suffix.lower() in (".yaml", ".yml"):
        registry = read_registry(path)
        mixture = config.mixture or "+".join(sorted(registry.entries))
        if not mixture:
            raise VilaHDError(f"data.sources: {path} is a registry without data sets")
        return open_mixture(mixture, registry, slices=config.slices)
    media = config.media or (path if path.is_dir() else path.parent)
    if not media.is_dir():
        raise VilaHDError(f"data.sources: media={str(media)!r}: there is no such folder")
    options = ReadOptions(media=media, convention=config.convention)
    if "*" not in path.name:
        return [open_rows(path, options)]
    files = sorted(Path(path.parent).glob(path.name))
    if not files:
        raise VilaHDError(f"data.sources: no file fits {str(path)!r}; check the name")
    cache = GroupCache()
    return [RowSet(str(path), Tables([open_table(file, cache) for file in files]), options)]
