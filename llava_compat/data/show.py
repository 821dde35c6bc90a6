"""``show``: one sample for people, with what of it is learned."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vila_hd.constants import IGNORE_INDEX, IMAGE_TOKEN
from vila_hd.errors import VilaHDError
from vila_hd.utils.text import make_visible, one_line

from .problems import DataError
from .rows import ImageReference, Row

if TYPE_CHECKING:
    from vila_hd.processing_vila_hd import VilaHDProcessor
    from vila_hd.supervision import EncodedConversation

GREEN = ("\x1b[32m", "\x1b[0m")
BRACKETS = ("[[", "]]")


def describe(row: Row, processor: "VilaHDProcessor | None", *, colour: bool) -> Iterator[str]:
    """Lines for people; with a processor, the text that its model reads.

    Args:
        row: the sample.
        processor: of the model; None: the messages as they are.
        colour: learned text in green; else in double brackets.

    Raises:
        DataError: the row cannot be encoded.
    """
    yield f"{one_line(row.source)}  id {row.id!r}"
    for number, image in enumerate(row.images):
        yield f"image {number}: {one_line(image.name)}{_describe_image(row, number, image)}"
    yield ""
    if processor is None:
        for message in row.messages:
            text = "".join(IMAGE_TOKEN if isinstance(p, ImageReference) else p for p in message.content)
            yield f"{message.role}: {make_visible(text)}"
        return
    from vila_hd.supervision import ConversationEncoder

    try:
        encoded = ConversationEncoder(processor)(row.to_chat())
    except VilaHDError as error:
        raise DataError(str(error), kind="template").at(row.source, row.id) from error
    yield mark_learned(encoded, GREEN if colour else BRACKETS)
    learned = sum(label != IGNORE_INDEX for label in encoded.labels)
    yield ""
    yield (
        f"{len(encoded.input_ids):,} tokens, {learned:,} of them learned; "
        f"{processor.low_res_tokens} low-resolution tokens per image"
    )


def _describe_image(row: Row, number: int, image: ImageReference) -> str:
    """Size and boxes of a picture, as far as they are known."""
    try:
        width, height = image.size()
        size = f", {width} x {height}"
    except DataError as error:
        size = f", {error}"
    boxes = row.boxes[number] if row.boxes else ()
    return size + "".join(f", box {', '.join(f'{x:g}' for x in box)}" for box in boxes)


def mark_learned(encoded: "EncodedConversation", marks: tuple[str, str]) -> str:
    """The text of a conversation with ``marks`` around what is learned."""
    learned = [
        span for span, label in zip(encoded.offsets, encoded.labels, strict=True) if label != IGNORE_INDEX
    ]
    pieces: list[str] = []
    place = 0
    for start, stop in _join(learned):
        pieces += [make_visible(encoded.text[place:start]), marks[0], make_visible(encoded.text[start:stop])]
        pieces.append(marks[1])
        place = stop
    return "".join(pieces) + make_visible(encoded.text[place:])


def _join(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
