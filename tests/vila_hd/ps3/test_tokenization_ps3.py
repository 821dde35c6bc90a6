import json

import pytest

from vila_hd.errors import VilaHDError
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer, clean_text

MODES = ["whitespace", "lower", "canonicalize"]


@pytest.fixture(scope="module")
def base_folder(goldens):
    return goldens.folder / "preprocess" / "text_tokenizer" / "hf_tokenizer"


@pytest.mark.parametrize("mode", MODES)
def test_cleaning_equals_the_reference(preprocess_goldens, mode):
    for row in preprocess_goldens["text_cleaning"]:
        assert clean_text(row["text"], mode) == row[mode]


@pytest.mark.parametrize("mode", MODES)
def test_ids_equal_the_reference(goldens, preprocess_goldens, mode):
    case = next(case for case in preprocess_goldens["text_tokenizer"] if case["clean"] == mode)
    tokenizer = PS3Tokenizer.from_pretrained(
        goldens.folder / case["dir"], tokenizer_name=goldens.folder / case["hf_tokenizer"]
    )
    assert tokenizer.context_length == case["context_length"]
    assert tokenizer(case["texts"]).tolist() == case["ids"]
    assert tokenizer(case["texts"][0], 6).tolist() == case["ids_context_6_first_text"]


@pytest.mark.parametrize("mode", MODES)
def test_cleaning_twice_changes_nothing(preprocess_goldens, mode):
    for row in preprocess_goldens["text_cleaning"]:
        assert clean_text(row[mode], mode) == row[mode]


@pytest.mark.parametrize("copied", [False, True])
def test_saved_tokenizer_gives_the_same_ids(tmp_path, base_folder, copied):
    first = PS3Tokenizer(base_folder, context_length=9, clean="lower")
    first.save_pretrained(tmp_path / "saved", copy_tokenizer=copied)
    (tmp_path / "saved").rename(tmp_path / "moved")
    second = PS3Tokenizer.from_pretrained(tmp_path / "moved")
    texts = ["A red sign", "x"]
    assert second(texts).tolist() == first(texts).tolist()


def test_separator_is_replaced_when_asked(base_folder):
    plain = PS3Tokenizer(base_folder, context_length=6)
    plain.tokenizer.sep_token = plain.tokenizer.pad_token
    stripped = PS3Tokenizer(plain.tokenizer, context_length=6, strip_sep_token=True)
    ids = plain("a")
    assert (ids == plain.tokenizer.sep_token_id).any()
    assert stripped("a").tolist() == ids.masked_fill(ids == plain.tokenizer.sep_token_id, 0).tolist()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"context_length": 0}, "context_length=0"),
        ({"context_length": True}, "context_length=True"),
        ({"clean": "shout"}, "clean='shout'"),
        ({"language": "klingon"}, "klingon"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(base_folder, options, named):
    with pytest.raises(VilaHDError, match=named) as caught:
        PS3Tokenizer(base_folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", [[], [1], None, ["a", None]])
def test_what_is_not_a_text_is_refused(base_folder, texts):
    with pytest.raises(VilaHDError, match="texts="):
        PS3Tokenizer(base_folder)(texts)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no tokenizer_config.json"),
        ("{", "JSON"),
        ("[]", "list"),
        ('{"clean": "lower"}', "tokenizer_name"),
    ],
)
def test_a_broken_folder_is_named_in_one_line(tmp_path, content, named):
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(VilaHDError, match=named) as caught:
        PS3Tokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_underlying_tokenizer_is_named_with_the_fix(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_name": str(tmp_path / "gone")}))
    with pytest.raises(VilaHDError, match=r"gone.*tokenizer_name="):
        PS3Tokenizer.from_pretrained(tmp_path)
