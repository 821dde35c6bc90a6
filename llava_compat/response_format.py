"""``response_format``: answers in JSON, in the shape that OpenAI clients and VILA scripts use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vila_hd.errors import VilaHDError

if TYPE_CHECKING:
    from vila_hd.json_answers import JsonLogitsProcessor

TYPES = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class JsonSchemaResponseFormat:
    """A JSON schema."""

    schema: str | Mapping[str, Any]
    """As JSON text or as an object."""


@dataclass(frozen=True)
class ResponseFormat:
    """What an answer looks like."""

    type: str = "text"
    """``text``, ``json_object`` or ``json_schema``."""

    json_schema: JsonSchemaResponseFormat | None = None
    """With ``json_schema``: the schema."""


def find_schema(response_format: object) -> Mapping[str, Any] | None:
    """The JSON schema that answers must follow; None: answers are free text.

    Differs from the reference, where ``text`` also forces JSON.

    Args:
        response_format: None, a ``ResponseFormat``, a mapping or any object with the same names.

    Raises:
        VilaHDError: an unknown type, or a schema that is missing or no JSON object.
    """
    if response_format is None:
        return None
    kind = _get(response_format, "type")
    if kind not in TYPES:
        raise VilaHDError(f"response_format of type {kind!r}: use one of {', '.join(TYPES)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = _get(_get(response_format, "json_schema"), "schema", "schema_")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise VilaHDError(f"response_format: the schema {schema[:80]!r} is no JSON ({error})") from error
    if not isinstance(schema, Mapping):
        raise VilaHDError(
            "response_format of type 'json_schema' without a schema: give "
            "{'type': 'json_schema', 'json_schema': {'schema': {...}}}"
        )
    return schema


def make_processor(
    response_format: object, tokenizer: Any, stop_ids: Sequence[int]
) -> "JsonLogitsProcessor | None":
    """The logits processor that keeps answers to a format; None: free text.

    Raises:
        VilaHDError: see ``find_schema`` and ``JsonLogitsProcessor``.
    """
    schema = find_schema(response_format)
    if schema is None:
        return None
    from vila_hd.json_answers import JsonLogitsProcessor

    return JsonLogitsProcessor(tokenizer, schema, stop_ids)


def _get(value: Any, *names: str) -> Any:
    if isinstance(value, Mapping):
        return next((value[name] for name in names if name in value), None)
    found = (getattr(value, name, None) for name in names)
    return next((entry for entry in found if entry is not None and not callable(entry)), None)
