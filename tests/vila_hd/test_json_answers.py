"""Answers that are JSON, from a model that knows nothing of it."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from vila_hd import VilaHDError
from vila_hd.json_answers import ANY_OBJECT, JsonLogitsProcessor

END = 256

needs_llguidance = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("llguidance"), reason="needs the extra 'json'"
)

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"type": "boolean"}},
    "required": ["n", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte, and one that ends an answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


def write(processor, tokenizer, seed: int, rows: int, steps: int = 400) -> list[str]:
    """Texts of a model that picks any allowed token; finished rows go on with padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, 3, dtype=torch.long)
    done = torch.zeros(rows, dtype=torch.bool)
    for _ in range(steps):
        scores = processor(ids, torch.randn(rows, END + 10, generator=generator))
        new = torch.where(done, END, torch.softmax(scores, 1).multinomial(1, generator=generator)[:, 0])
        done |= new == END
        ids = torch.cat([ids, new[:, None]], dim=1)
        if bool(done.all()):
            return [tokenizer.decode(row[3:], skip_special_tokens=True) for row in ids]
    raise AssertionError("no end in sight")


@needs_llguidance
@pytest.mark.parametrize("seed", range(5))
def test_every_answer_follows_the_schema(tokenizer, seed):
    for text in write(JsonLogitsProcessor(tokenizer, SCHEMA, [END]), tokenizer, seed, rows=3):
        value = json.loads(text)
        assert set(value) == {"n", "b"}
        assert value["n"] in range(10)
        assert isinstance(value["b"], bool)
        assert text == json.dumps(value)  # one line, no white space to get lost in


@needs_llguidance
def test_any_object(tokenizer):
    for text in write(
        JsonLogitsProcessor(tokenizer, {**ANY_OBJECT, "maxProperties": 1}, [END]), tokenizer, 0, 2, 4000
    ):
        assert isinstance(json.loads(text), dict)


@needs_llguidance
@pytest.mark.parametrize(
    "schema", [{"type": "thing"}, {"allOf": 3}, [1], {"type": "string", "format": "odd"}]
)
def test_schemas_that_are_none(tokenizer, schema):
    with pytest.raises(VilaHDError, match=r"JSON schema .*; (change the schema|give an object)"):
        JsonLogitsProcessor(tokenizer, schema, [END])


@needs_llguidance
def test_an_end_is_needed(tokenizer):
    with pytest.raises(VilaHDError, match="set eos_token_id"):
        JsonLogitsProcessor(tokenizer, SCHEMA, [])


@needs_llguidance
def test_a_tokenizer_without_bytes_cannot_write_json():
    """The bundled model's vocabulary has no brackets."""
    import vila_hd

    model, processor = vila_hd.load("nano")
    with pytest.raises(VilaHDError, match="not possible with this model's tokenizer"):
        LogitsProcessorList(
            [JsonLogitsProcessor(processor.tokenizer, SCHEMA, [model.generation_config.eos_token_id])]
        )


def test_a_missing_package_is_named_with_its_extra(tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(VilaHDError, match=r"llguidance .*vila-hd\[json\]"):
        JsonLogitsProcessor(tokenizer, SCHEMA, [END])
