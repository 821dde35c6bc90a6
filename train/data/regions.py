"""Pictures with captioned regions as training rows. Row ``i`` is a pure function of (config, seed, i)."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava_compat.data import DataError

from ..region_config import RegionDataConfig
from .account import Report
from .captions import clean_caption, mask_sentences
from .region_crops import choose_crop, cut_out, move_boxes, prepared_size
from .region_order import SampleOrder, SourceOrder
from .region_rows import Captions, RegionRecord, fit_boxes, open_source
from .scenes import Picture, Regions

MAX_ATTEMPTS = 20
"""Samples that are tried for one row; so many broken ones in a row are no accident."""


def name_number(name: str) -> int:
    """A 63-bit number of ``name``, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


class RealRegionDataset(Dataset):
    """Pictures with sampled regions; several regions of a picture share its decoding and its low-resolution
    pass.

    Workers hand on uint8 pictures that are no larger than the file's own.
    """

    def __init__(
        self,
        config: RegionDataConfig,
        *,
        rows: int,
        seed: int,
        side: int,
        items_per_picture: int,
        global_share: float = 0.0,
        global_instead: bool = False,
    ) -> None:
        """Open the sources.

        Args:
            config: sources and preparation.
            rows: length.
            seed: of order, crops and sampled regions.
            side: largest scale of the tower in pixels: larger pictures are made smaller.
            items_per_picture: regions per row, if the picture has so many.
            global_share: share of rows with a pair for the whole picture, where it has a caption.
            global_instead: such rows have no regions.

        Raises:
            VilaHDError: a source is empty or cannot be read.
        """
        self.config = config
        self.rows = rows
        self.seed = seed
        self.side = side
        self.items_per_picture = items_per_picture
        self.global_share = global_share
        self.global_instead = global_instead
        self.readers = [open_source(source) for source in config.sources]
        self.source_order = SourceOrder([source.weight for source in config.sources], seed=seed)
        self.sample_orders = [
            SampleOrder(reader.counts, seed=(seed, number), window=config.shuffle_window)
            for number, reader in enumerate(self.readers)
        ]

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Regions:
        """Row ``index``: of the first sample that is not broken; its report names those that are."""
        source, position = self.source_order.at(index)
        broken: list[str] = []
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng((self.seed, index, attempt))
            if attempt:  # a broken sample is replaced by any other one of its source
                position = int(rng.integers(self.sample_orders[source].total))
            try:
                record = self.readers[source].read(*self.sample_orders[source].at(position))
                row = self._make_row(record, self.config.sources[source].name, rng)
            except DataError as error:
                broken.append(str(error))
                continue
            return replace(row, report=Report(broken=tuple(broken)))
        return no_row(
            broken,
            f"source {self.config.sources[source].name}: {MAX_ATTEMPTS} samples in a row are broken; check "
            f"that pictures and captions belong together; the last one: {broken[-1]}",
        )

    def _make_row(self, record: RegionRecord, source: str, rng: np.random.Generator) -> Regions:
        """Sample regions, then crop around them."""
        picture = record.image.open()
        said = record.captions
        try:
            boxes = np.array(fit_boxes(said.boxes, picture.size), dtype=np.float64).reshape(-1, 4)
        except DataError as error:
            raise DataError(f"{record.image.name}: {error}", kind=error.kind) from error
        chosen, use_global = self._choose(said, rng)
        crop = choose_crop(
            picture.size, boxes[chosen], rng, area=self.config.crop_area, aspect=self.config.crop_aspect
        )
        size = prepared_size(crop, self.side, self.config.resize)
        scale = (size[0] / (crop.x2 - crop.x1), size[1] / (crop.y2 - crop.y1))
        shown, _ = move_boxes(boxes, crop, scale, min_visible=self.config.min_visible)
        # Whole boxes are inside by construction.
        items, _ = move_boxes(boxes[chosen], crop, scale, min_visible=0.0)
        assert len(items) == len(chosen)
        prepared = Picture(
            picture_id=name_number(f"{source}/{record.name}"),
            pixels=cut_out(picture, crop, size),
            boxes=_as_tensor(shown),
            global_caption=self._caption(said.global_caption or "", rng),
        )
        return Regions(
            picture=prepared,
            boxes=_as_tensor(items),
            captions=tuple(self._caption(said.captions[i], rng) for i in chosen),
            swapped=((),) * len(chosen),
            use_global=use_global,
        )

    def _choose(self, said: Captions, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Numbers of the sampled regions, ascending, and whether the whole picture is a pair as well."""
        wanted = bool(rng.random() < self.global_share)
        use_global = said.global_caption is not None and (wanted or not said.boxes)
        count = 0 if use_global and self.global_instead else min(self.items_per_picture, len(said.boxes))
        chosen = rng.permutation(len(said.boxes))[:count]
        return np.sort(chosen), use_global

    def _caption(self, text: str, rng: np.random.Generator) -> str:
        text = clean_caption(text) or text
        return mask_sentences(text, rng) if self.config.sentence_masking else text


def no_row(broken: Sequence[str], failure: str) -> Regions:
    """What stands for a row that cannot be made; its batch is not used."""
    nothing = Picture(0, torch.zeros(3, 1, 1, dtype=torch.uint8), torch.zeros(0, 4, dtype=torch.long), "")
    report = Report(samples=0, broken=tuple(broken), failure=failure)
    return Regions(nothing, nothing.boxes, (), (), False, report)


def _as_tensor(boxes: np.ndarray) -> Tensor:
    return torch.from_numpy(boxes).long().view(-1, 4)
