"""``check``: read every row, count, and group what is wrong."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from vila_hd.errors import VilaHDError
from vila_hd.utils.text import one_line

from .formats import ReadOptions, make_row
from .problems import DataError, Kind, Record
from .rows import Row, iterate_texts

if TYPE_CHECKING:
    from vila_hd.processing_vila_hd import VilaHDProcessor
    from vila_hd.supervision import ConversationEncoder

SHOWN = 3
"""Problems of a group that are printed."""

KEPT = 100
"""Problems of a group that ``--json`` lists."""


@dataclass
class Group:
    """Problems of one kind."""

    count: int = 0
    messages: list[str] = field(default_factory=list)
    """The first of them."""


@dataclass
class Tokens:
    """Tokens of all rows for one model."""

    text: int = 0
    """Without visual tokens."""

    learned: int = 0
    """Supervised ones."""

    longest: int = 0
    """Of one row, low-resolution visual tokens included."""


@dataclass
class Summary:
    """What a set holds."""

    rows: int = 0
    good: int = 0
    turns: int = 0
    """Answers of good rows."""

    images: int = 0
    boxes: int = 0
    characters: int = 0
    tokens: Tokens | None = None
    problems: dict[Kind, Group] = field(default_factory=dict)

    @property
    def num_problems(self) -> int:
        """Rows with a problem."""
        return sum(group.count for group in self.problems.values())

    def add_problem(self, problem: DataError) -> None:
        """Count one broken row."""
        group = self.problems.setdefault(problem.kind, Group())
        group.count += 1
        if len(group.messages) < KEPT:
            group.messages.append(str(problem))

    def add(self, row: Row) -> None:
        """Count one good row."""
        self.good += 1
        self.turns += sum(message.role == "assistant" for message in row.messages)
        self.images += len(row.images)
        self.boxes += sum(len(boxes) for boxes in row.boxes)
        self.characters += sum(len(text) for text in iterate_texts(row))


def check_records(
    records: Iterable[tuple[Record, ReadOptions]],
    processor: "VilaHDProcessor | None" = None,
    *,
    look_at_images: Literal["no", "header", "decode"] = "header",
) -> Summary:
    """Summary of a set; of every broken row, the first problem.

    Args:
        records: the set, each record with how to read it.
        processor: of a model for which rows are encoded; None: none.
        look_at_images: how closely. Boxes are compared with sizes unless ``no``.
    """
    encoder = None
    summary = Summary()
    if processor is not None:
        from vila_hd.supervision import ConversationEncoder

        encoder, summary.tokens = ConversationEncoder(processor), Tokens()
    for (source, value), options in tqdm(records, unit=" rows", leave=False, disable=not sys.stderr.isatty()):
        summary.rows += 1
        try:
            if isinstance(value, DataError):
                raise value
            row = make_row(value, source, options)
            if look_at_images == "header":
                row.check_images()
            elif look_at_images == "decode":
                row.open_images()
            if encoder is not None and summary.tokens is not None:
                _count_tokens(row, encoder, summary.tokens)
        except DataError as problem:
            summary.add_problem(problem)
        else:
            summary.add(row)
    return summary


def _count_tokens(row: Row, encoder: "ConversationEncoder", tokens: Tokens) -> None:
    try:
        encoded = encoder(row.to_chat())
    except VilaHDError as error:
        raise DataError(str(error), kind="template").at(row.source, row.id) from error
    processor = encoder.processor
    visual = len(row.images) * (processor.low_res_tokens + len(processor.image_end_ids))
    tokens.text += len(encoded.input_ids) - visual
    tokens.learned += sum(turn.stop - turn.start for turn in encoded.turns)
    tokens.longest = max(tokens.longest, len(encoded.input_ids))


def describe(summary: Summary, path: Path) -> Iterator[str]:
    """Lines for people."""
    yield one_line(path)
    yield f"rows      {summary.rows:,} ({summary.rows - summary.good:,} with problems)"
    yield f"answers   {summary.turns:,}"
    yield f"images    {summary.images:,}"
    yield f"boxes     {summary.boxes:,}"
    yield f"text      {summary.characters:,} characters"
    if summary.tokens is not None:
        t = summary.tokens
        yield f"tokens    {t.text:,} of text, {t.learned:,} learned; longest row {t.longest:,} with images"
    if not summary.problems:
        yield "problems  none"
        return
    yield "problems"
    for kind, group in sorted(summary.problems.items(), key=lambda item: -item[1].count):
        yield f"  {kind}: {group.count:,}"
        yield from (f"    {message}" for message in group.messages[:SHOWN])
        if group.count > SHOWN:
            yield f"    ... and {group.count - SHOWN:,} more (--json lists {KEPT})"


def to_json(summary: Summary, path: Path) -> str:
    """One JSON object for programs."""
    tokens = summary.tokens
    values: dict[str, Any] = {
        "path": str(path),
        "rows": summary.rows,
        "rows_with_problems": summary.rows - summary.good,
        "answers": summary.turns,
        "images": summary.images,
        "boxes": summary.boxes,
        "characters": summary.characters,
        "tokens": None
        if tokens is None
        else {"text": tokens.text, "learned": tokens.learned, "longest_row": tokens.longest},
        "problems": {
            kind: {"count": group.count, "first": group.messages} for kind, group in summary.problems.items()
        },
    }
    return json.dumps(values, indent=2)
