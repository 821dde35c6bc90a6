"""Mappings of every format -> rows.

Which format a mapping has is told by its keys: ``conversations`` (LLaVA), ``messages`` (OpenAI), ``texts``
(question and answer pairs, as in collections of parquet files), or ``q`` and ``a``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_hd.constants import IMAGE_TOKEN

from .boxes import read_boxes
from .media import make_reference
from .problems import DataError, Source, brief
from .rows import ImageReference, Message, Role, Row
from .turns import CONVENTIONS, Convention, Turn, check_turns, place_images

ROLES: Mapping[str, Role] = {
    "human": "user",
    "gpt": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}
"""Names of roles in data files -> ours."""

VIDEO_KEYS = ("video", "videos", "video_id", "video_path")
VIDEO_TOKENS = ("<video>", "<vila/video>")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How rows are read."""

    media: Path
    """Folder that names of pictures are relative to; nothing outside of it is opened."""

    convention: Convention = "registry"
    """Where pictures of rows with ``conversations`` or ``q`` go."""

    strict: bool = False
    """Refuse rows with keys that are not known."""

    check_files: bool = True
    """Whether every picture file must exist when its row is read."""

    system: str | None = None
    """System message for rows without one; None: none, so the template's own; "": an empty one."""

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise DataError(f"convention={self.convention!r}: use one of {', '.join(CONVENTIONS)}")


Reader = Callable[[Mapping[Any, Any], ReadOptions], list[Turn]]


def make_row(record: Any, source: Source, options: ReadOptions) -> Row:
    """The row of one mapping.

    Raises:
        DataError: what is wrong with it, with its place.
    """
    row_id = None
    try:
        if not isinstance(record, Mapping):
            raise DataError(
                f"expected an object, got {brief(record)}; give one object with conversations per row"
            )
        row_id = _id_of(record, source)
        return _make(record, source, row_id, options)
    except DataError as error:
        raise error.at(source, row_id) from error.__cause__


def _make(record: Mapping[Any, Any], source: Source, row_id: str, options: ReadOptions) -> Row:
    found = [key for key in READERS if record.get(key) is not None]
    if len(found) != 1:
        raise DataError(
            f"expected one of the keys {', '.join(READERS)}, got {found or sorted(map(str, record))[:12]}; "
            "a LLaVA row has conversations"
        )
    _check_keys(record, KNOWN_KEYS, "row", options)
    if video := [key for key in VIDEO_KEYS if record.get(key) is not None]:
        raise DataError(
            f"key {video[0]!r}: videos are not read; save frames as pictures and list them under 'images'",
            kind="video",
        )
    images = [make_reference(v, options.media, check_files=options.check_files) for v in _images_of(record)]
    read, convention = READERS[found[0]]
    turns = read(record, options)
    check_turns(turns)
    messages = place_images(turns, images, convention or options.convention)
    if options.system is not None and messages[0].role != "system":
        messages = [Message("system", (options.system,)), *messages]
    num_images = sum(isinstance(part, ImageReference) for m in messages for part in m.content)
    boxes = read_boxes(record, num_images)
    return Row(id=row_id, source=source, messages=tuple(messages), boxes=boxes)


def _id_of(record: Mapping[Any, Any], source: Source) -> str:
    value = record.get("id")
    if value is None:
        return str(source.index)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"id is {brief(value)}; give a text or a number")
    return _clean(value, "id") if isinstance(value, str) else brief(value)


def _check_keys(record: Mapping[Any, Any], known: frozenset[str], where: str, options: ReadOptions) -> None:
    if options.strict and (unknown := sorted(str(key) for key in record if key not in known)):
        raise DataError(
            f"{where}: unknown key(s) {unknown}; remove them, or read without --strict", kind="unknown keys"
        )


def _images_of(record: Mapping[Any, Any]) -> list[Any]:
    """Values of ``image`` and ``images``."""
    one, many = record.get("image"), record.get("images")
    if one is not None and many is not None:
        raise DataError("both 'image' and 'images' are given; keep one of them", kind="image count")
    value = one if one is not None else many
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return [] if value is None else [value]


def _read_conversations(record: Mapping[Any, Any], options: ReadOptions) -> list[Turn]:
    turns = []
    for number, turn in enumerate(_list(record["conversations"], "conversations")):
        where = f"conversations[{number}]"
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise DataError(f"{where} is {brief(turn)}; give an object with 'from' and 'value'")
        _check_keys(turn, frozenset({"from", "value"}), where, options)
        turns.append(Turn(_role(turn["from"], where), (_text(turn["value"], where),)))
    return turns


def _read_messages(record: Mapping[Any, Any], options: ReadOptions) -> list[Turn]:
    turns = []
    for number, message in enumerate(_list(record["messages"], "messages")):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or "role" not in message:
            raise DataError(f"{where} is {brief(message)}; give an object with 'role' and 'content'")
        if message.get("tool_calls"):
            raise DataError(f"{where}: tool calls are not read; write the answer as text")
        _check_keys(message, frozenset({"role", "content", "name", "tool_calls"}), where, options)
        role, content = _role(message["role"], where), message.get("content")
        if isinstance(content, str):
            turns.append(Turn(role, (_text(content, where),)))
        else:
            items = enumerate(_list(content, f"{where}.content"))
            parts = tuple(_item(item, f"{where}.content[{place}]", options) for place, item in items)
            turns.append(Turn(role, parts))
    return turns


def _item(item: Any, where: str, options: ReadOptions) -> str | ImageReference:
    """One content item of a message; ``<image>`` for an image item that names no picture of its own."""
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "text":
        text = _text(item.get("text"), where, strip=False)
        if IMAGE_TOKEN in text:
            raise DataError(
                f"{where}: text with {IMAGE_TOKEN}; use an item {{'type': 'image'}} instead",
                kind="image count",
            )
        return text
    if kind == "image_url":
        value = item.get("image_url")
        value = value.get("url") if isinstance(value, Mapping) else value
        return make_reference(value, options.media, check_files=options.check_files)
    if kind == "image":
        value = next((item[key] for key in ("image", "path", "url") if item.get(key) is not None), None)
        return (
            IMAGE_TOKEN
            if value is None
            else make_reference(value, options.media, check_files=options.check_files)
        )
    raise DataError(f"{where} is {brief(item)}; use items of type text, image or image_url")


def _read_texts(record: Mapping[Any, Any], options: ReadOptions) -> list[Turn]:
    turns: list[Turn] = []
    for number, pair in enumerate(_list(record["texts"], "texts")):
        where = f"texts[{number}]"
        if not isinstance(pair, Mapping) or "user" not in pair or "assistant" not in pair:
            raise DataError(f"{where} is {brief(pair)}; give an object with 'user' and 'assistant'")
        turns += [
            Turn("user", (_text(pair["user"], where),)),
            Turn("assistant", (_text(pair["assistant"], where),)),
        ]
    return turns


def _read_pair(record: Mapping[Any, Any], options: ReadOptions) -> list[Turn]:
    return [Turn("user", (_text(record["q"], "q"),)), Turn("assistant", (_text(record.get("a"), "a"),))]


READERS: dict[str, tuple[Reader, Convention | None]] = {
    "conversations": (_read_conversations, None),
    "messages": (_read_messages, "interleaved"),
    "texts": (_read_texts, "registry"),
    "q": (_read_pair, None),
}
"""Key that tells a format -> how to read it, and where its pictures go where that is not a choice."""

KNOWN_KEYS = frozenset(
    {"id", "image", "images", "box", "boxes", "a", "fps", "frame_count", "captions", *READERS, *VIDEO_KEYS}
)
"""Keys that a row may have in strict mode."""


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DataError(f"{where} is {brief(value)}; give a list with at least one entry")
    return value


def _role(value: Any, where: str) -> Role:
    role = ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        raise DataError(
            f"{where}: role {brief(value)} is not known; use one of {', '.join(ROLES)}", kind="roles"
        )
    return role


def _text(value: Any, where: str, *, strip: bool = True) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text, got {brief(value)}")
    text = _clean(value, where)
    if found := [token for token in VIDEO_TOKENS if token in text]:
        raise DataError(f"{where}: text with {found[0]}: videos are not read; use pictures", kind="video")
    return text.strip() if strip else text


def _clean(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} is half of a surrogate pair ({text[error.start]!r}); repair "
            "the encoding of the text",
            kind="broken text",
        ) from error
    return text
