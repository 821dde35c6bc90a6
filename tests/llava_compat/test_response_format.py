"""Which answers must be JSON, and by which schema."""

import json
from types import SimpleNamespace

import pytest

import llava_compat.api as llava
from llava_compat.response_format import JsonSchemaResponseFormat, ResponseFormat, find_schema
from vila_hd import VilaHDError

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}


@pytest.mark.parametrize("value", [None, {"type": "text"}, ResponseFormat(), SimpleNamespace(type="text")])
def test_free_text(value):
    """Differs from the published code, where ``text`` also forces JSON."""
    assert find_schema(value) is None


@pytest.mark.parametrize("value", [{"type": "json_object"}, ResponseFormat("json_object")])
def test_any_object(value):
    assert find_schema(value) == {"type": "object"}


@pytest.mark.parametrize(
    "value",
    [
        {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        {"type": "json_schema", "json_schema": {"schema": json.dumps(SCHEMA)}},
        ResponseFormat("json_schema", JsonSchemaResponseFormat(SCHEMA)),
        SimpleNamespace(type="json_schema", json_schema=SimpleNamespace(schema_=json.dumps(SCHEMA))),
    ],
)
def test_a_schema_in_every_shape(value):
    assert find_schema(value) == SCHEMA


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "yaml"}, "type 'yaml': use one of text, json_object, json_schema"),
        ("json_object", "type None"),
        ({"type": "json_schema"}, "without a schema"),
        ({"type": "json_schema", "json_schema": {"schema": "{"}}, "is no JSON"),
        ({"type": "json_schema", "json_schema": {"schema": [1]}}, "without a schema"),
    ],
)
def test_what_is_no_format(value, message):
    with pytest.raises(VilaHDError, match=message):
        find_schema(value)


def test_an_answer_in_json(good_published):
    pytest.importorskip("llguidance", reason="needs the extra 'json'")
    model = llava.load(good_published)
    config = model.default_generation_config
    config.max_new_tokens = 60
    text = model.generate_content(
        "How many?",
        config,
        response_format={
            "type": "json_schema",
            "json_schema": {"schema": {**SCHEMA, "additionalProperties": False}},
        },
    )
    assert json.loads(text)["n"] <= 99
