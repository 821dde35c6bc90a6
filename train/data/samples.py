"""Rows of data files as training samples. Sample ``i`` is a pure function of (config, seed, i): a run can
resume anywhere, and loader processes may be many or none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava_compat.data import DataError, Row
from vila_hd.errors import VilaHDError
from vila_hd.options import Box

from .account import Report
from .canvas import Canvas, Size, plan_canvas
from .order import MixtureOrder, RowOrder
from .sequences import SequenceEncoder, TooLongError
from .sources import Source

ATTEMPTS = 100
"""Rows that are tried for one sample."""

TRIED = 8
"""Rows of each source of which one must be usable when a run starts."""


class NothingToLearnError(VilaHDError):
    """A row that is fine, but not for this stage."""


@dataclass(frozen=True)
class Sample:
    """One row, ready for a batch."""

    report: Report
    row: Row | None = None
    """Where the sample comes from; None: there is none, and ``report`` says why."""

    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    look_positions: tuple[int, ...] = ()
    pictures: tuple[Tensor, ...] = ()
    """``(3, height, width)`` uint8, at the size that the tower reads."""

    sizes: tuple[Size, ...] = ()
    """Width and height that ``boxes`` are relative to, in pixels."""

    boxes: tuple[tuple[Box, ...], ...] = ()
    """Per picture: what the answer needs to see."""

    own_choice: tuple[bool, ...] = ()
    """Per picture: whether the model chooses its patches without being given the boxes."""

    length: int = 0
    """Tokens with all high-resolution ones, at most."""


class SampleDataset(Dataset):
    """Samples of a run; the sampler goes through them in order."""

    def __init__(
        self,
        sources: Sequence[Source],
        encoder: SequenceEncoder,
        *,
        rows: int,
        seed: int,
        own_choice: float = 0.0,
        need_box: bool = False,
    ) -> None:
        """Plan ``rows`` samples.

        Args:
            sources: what to mix.
            encoder: makes sequences of rows.
            rows: length.
            seed: of the order and of everything that is drawn.
            own_choice: share of pictures whose boxes are not given to the tower.
            need_box: only rows with a box.
        """
        self.sources = list(sources)
        self.encoder = encoder
        self.rows = rows
        self.seed = seed
        self.own_choice = own_choice
        self.need_box = need_box
        self.mixture = MixtureOrder([source.share for source in sources], seed)
        self.orders = [
            RowOrder(len(source.rows), source.rows.table.group_sizes, seed, number)
            for number, source in enumerate(sources)
        ]

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Sample:
        number, use = self.mixture.place(index)
        source = self.sources[number]
        broken: list[str] = []
        skipped: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.seed, index, attempt))
            place = self.orders[number].row(use) if attempt == 0 else int(rng.integers(len(source.rows)))
            try:
                sample = self.make(source, place, rng)
            except (TooLongError, NothingToLearnError) as error:
                skipped.append(str(error))
            except VilaHDError as error:
                broken.append(str(error))
            else:
                report = replace(sample.report, broken=tuple(broken), skipped=tuple(skipped))
                return replace(sample, report=report)
        last = (skipped + broken)[-1]
        failure = f"source {source.name}: none of {ATTEMPTS} rows can be used; the last one: {last}"
        return Sample(Report(0, tuple(broken), tuple(skipped), failure=failure))

    def check_sources(self) -> None:
        """Pass when every source has a usable row among its first ones.

        Raises:
            VilaHDError: one has none; names it and its first problem.
        """
        for source in self.sources:
            problems = []
            for place in range(min(TRIED, len(source.rows))):
                try:
                    self.make(source, place, np.random.default_rng((self.seed, place)))
                    break
                except VilaHDError as error:
                    problems.append(str(error))
            else:
                raise VilaHDError(
                    f"source {source.name}: none of its first {len(problems)} row(s) teaches anything; the "
                    f"first one: {problems[0]}"
                )

    def make(self, source: Source, place: int, rng: np.random.Generator) -> Sample:
        """The sample of row ``place`` of a source.

        Raises:
            TooLongError: it does not fit into the context.
            NothingToLearnError: it has no box where the stage learns from boxes.
            VilaHDError: it is broken.
        """
        row = source.rows.row(place)
        if self.need_box and not any(row.boxes):
            raise NothingToLearnError(
                f"{row.source}: sample {row.id!r:.80}: no box, and the select stage learns from boxes only"
            )
        sizes = row.check_images()
        canvas = self._canvas(source, sizes, rng)
        shown = sizes if canvas is None else [canvas.size]
        try:
            sequence = self.encoder(row, shown)
        except TooLongError:
            raise
        except VilaHDError as error:
            raise DataError(str(error), kind="template").at(row.source, row.id) from error
        kept = len(sequence.look_positions)
        boxes = row.boxes or ((),) * len(sizes)
        if canvas is not None:
            boxes = (tuple(canvas.move(box, sizes[0]) for box in boxes[0]) or (canvas.box,),)
        prepared = [self._prepare(row, i, canvas) for i in range(kept)]
        frames = [self._frame(size, entry) for size, entry in zip(shown[:kept], boxes[:kept], strict=True)]
        return Sample(
            report=Report(truncated=int(sequence.truncated)),
            row=row,
            input_ids=tuple(sequence.input_ids),
            labels=tuple(sequence.labels),
            look_positions=tuple(sequence.look_positions),
            pictures=tuple(prepared),
            sizes=tuple(size for size, _ in frames),
            boxes=tuple(entry for _, entry in frames),
            own_choice=tuple(bool(x) for x in rng.random(kept) < self.own_choice),
            length=sequence.length,
        )

    def _canvas(self, source: Source, sizes: Sequence[Size], rng: np.random.Generator) -> Canvas | None:
        config = source.canvas
        if config is None or len(sizes) != 1 or rng.random() >= config.share:
            return None
        return plan_canvas(sizes[0], config, rng)

    def _prepare(self, row: Row, number: int, canvas: Canvas | None) -> Tensor:
        try:
            picture = row.images[number].open()
        except DataError as error:
            raise error.at(row.source, row.id) from error
        if canvas is not None:
            picture = canvas.paste(picture)
        # Normalised by the tower, so that no process holds or ships large pictures as floats.
        prepared = self.encoder.processor.image_processor.preprocess(picture, do_normalize=False)
        pixels: Tensor = prepared["pixel_values"][0]
        assert pixels.dtype == torch.uint8
        return pixels

    def _frame(self, size: Size, boxes: Sequence[Box]) -> tuple[Size, tuple[Box, ...]]:
        """Size of what the tower is shown, and boxes in it: a picture may be padded to a square."""
        processor = self.encoder.processor.image_processor
        width, height = size
        x, y = processor.frame_offset(height, width)
        moved = tuple((box[0] + x, box[1] + y, box[2] + x, box[3] + y) for box in boxes)
        return (max(width, height),) * 2 if processor.resize_mode == "pad" else size, moved
