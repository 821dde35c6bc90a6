"""The tokenizer of a published model: its extra tokens, its stop tokens, and its files both ways."""

import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vila_hd.checkpoint_files import read_json
from vila_hd.constants import IMAGE_TOKEN
from vila_hd.errors import VilaHDError
from vila_hd.processing_vila_hd import add_pictures_to_template
from vila_hd.utils.text import one_line

SENTINEL = "<vila/sentinel>"
"""Stands for an answer while the published code works out what a template puts after answers."""

VIDEO_TOKEN = "<vila/video>"
MEDIA_TOKENS = (SENTINEL, IMAGE_TOKEN, VIDEO_TOKEN)
"""Tokens that the published code adds while it builds a model, in this order."""

BOS, PAD = "[BOS]", "[PAD]"
"""Tokens that it adds where a tokenizer has no such token of its own."""

ROUNDS = 10
"""Turns of the conversation that stop tokens are found with."""

NO_LIMIT = 10**9
"""A ``model_max_length`` from here on means that there is none."""

_TEMPLATE_PREFIX = add_pictures_to_template("")


@dataclass(frozen=True)
class Added:
    """What was added to our tokenizer when it was written, so that reading takes it away again."""

    tokens: tuple[str, ...]
    bos_token: str | None
    pad_token: str | None

    @classmethod
    def parse(cls, value: Any) -> "Added":
        """From the published config.json.

        Raises:
            VilaHDError: it is malformed.
        """
        fields: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        names, bos, pad = (fields.get(key) for key in ("tokens", "bos_token", "pad_token"))
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not good or not all(token is None or isinstance(token, str) for token in (bos, pad)):
            raise VilaHDError(f"config.json: vila_hd.added={str(value)[:80]}: get the file again")
        return cls(tuple(names or ()), bos, pad)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"tokens": list(self.tokens), "bos_token": self.bos_token, "pad_token": self.pad_token}


def read_tokenizer(folder: Path, added: Added | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of ``llm/``, with every token that media need; padding on the left, for generation.

    Raises:
        VilaHDError: there is none, or it cannot be read.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            read_json(folder / name)
    try:
        if not (folder / "tokenizer.json").exists():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        elif added is None:
            # Not the class that tokenizer_config.json names: that builds its own idea of how to split words.
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        else:
            tokenizer = _read_without(folder, added)
    except VilaHDError:
        raise
    except Exception as error:  # the tokenizers package raises plain Exception
        reason = one_line(error)[:160] or type(error).__name__
        raise VilaHDError(
            f"{folder}: its tokenizer cannot be read ({reason}); get the folder again"
        ) from error
    if added is None:
        # Adding a token that is there already only marks it as special.
        tokenizer.add_tokens(list(MEDIA_TOKENS), special_tokens=True)
    tokenizer.padding_side = "left"
    return tokenizer


def _read_without(folder: Path, added: Added) -> PreTrainedTokenizerBase:
    backend, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    tokens = [entry for entry in backend["added_tokens"] if entry["content"] not in added.tokens]
    lost = [entry["id"] for entry in backend["added_tokens"] if entry["content"] in added.tokens]
    if lost and min(lost) <= max((entry["id"] for entry in tokens), default=-1):
        raise VilaHDError(
            f"{folder}: tokens were added after {', '.join(added.tokens)}; remove vila_hd.added"
        )
    backend["added_tokens"] = tokens
    settings.pop("added_tokens_decoder", None)
    settings.update(bos_token=added.bos_token, pad_token=added.pad_token)
    with tempfile.TemporaryDirectory() as place:
        for name, values in (("tokenizer.json", backend), ("tokenizer_config.json", settings)):
            (Path(place) / name).write_text(json.dumps(values), encoding="utf-8")
        return PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True)


def read_template(tokenizer: PreTrainedTokenizerBase, given: str | None, label: str) -> str:
    """The language model's chat template.

    Raises:
        VilaHDError: there is none.
    """
    template: Any = given or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str) or not template:
        raise VilaHDError(
            f"{label}: its tokenizer has no chat template; pass chat_template=, the one that the model was "
            "trained with"
        )
    return template


def find_stop_ids(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Ids that end an answer: the tokenizer's own, and what the template puts right after answers.

    Raises:
        VilaHDError: the template fails.
    """
    sentinel = SENTINEL
    if tokenizer.get_vocab().get(SENTINEL) is None:
        sentinel = IMAGE_TOKEN  # any token that is never split and that no template writes
    sentinel_id = tokenizer.convert_tokens_to_ids(sentinel)
    messages = []
    for _ in range(ROUNDS):
        messages += [{"role": "user", "content": "question"}, {"role": "assistant", "content": sentinel}]
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception as error:  # templates are programs: they raise anything
        raise VilaHDError(
            f"the chat template fails ({' '.join(str(error).split())[:160]}); pass chat_template="
        ) from error
    ids = tokenizer(text)["input_ids"]
    stops = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for token, following in itertools.pairwise(ids):
        if token == sentinel_id and following not in stops:
            stops.append(following)
    return stops


def max_length_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Its ``model_max_length``; None: no limit."""
    length = tokenizer.model_max_length
    return int(length) if isinstance(length, int) and 0 < length < NO_LIMIT else None


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, template: str) -> Added:
    """Write ``llm/``'s tokenizer files as transformers of the published models' age reads them.

    Args:
        folder: where to.
        tokenizer: ours, with a fast backend.
        template: the chat template, ours with pictures or the language model's own.

    Raises:
        VilaHDError: it has no fast backend.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise VilaHDError(
            f"a {type(tokenizer).__name__} has no tokenizer.json; convert it to a fast tokenizer first"
        )
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.update(truncation=None, padding=None)
    added = _complete(backend, tokenizer)
    special = {
        name: getattr(tokenizer, name)
        for name in (
            "bos_token",
            "eos_token",
            "unk_token",
            "sep_token",
            "pad_token",
            "cls_token",
            "mask_token",
        )
        if getattr(tokenizer, name) is not None
    }
    special.setdefault("bos_token", BOS)
    if PAD in added.tokens:
        special["pad_token"] = PAD
    special.setdefault("pad_token", special.get("unk_token", PAD))
    extra = [str(token) for token in getattr(tokenizer, "extra_special_tokens", ())]
    kept = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(entry["id"]): {key: entry[key] for key in kept} for entry in backend["added_tokens"]
        },
        "additional_special_tokens": extra,
        "chat_template": strip_pictures(template),
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": max_length_of(tokenizer) or 10**30,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
        **special,
    }
    files: dict[str, Any] = {
        "tokenizer.json": backend,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": {"additional_special_tokens": extra, **special},
        "added_tokens.json": {entry["content"]: entry["id"] for entry in backend["added_tokens"]},
    }
    for name, values in files.items():
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return added


def _complete(backend: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Added:
    """Add the tokens that published tokenizers have to ``backend``."""
    wanted = [
        *([BOS] if tokenizer.bos_token is None else []),
        *([PAD] if tokenizer.unk_token is None else []),
    ]
    wanted += MEDIA_TOKENS
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in wanted if token not in vocabulary]
    for number, token in enumerate(missing, start=max(vocabulary.values()) + 1):
        entry = {"id": number, "content": token, "special": True}
        entry.update(dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False))
        backend["added_tokens"].append(entry)
    return Added(tuple(missing), tokenizer.bos_token, tokenizer.pad_token)


def strip_pictures(template: str) -> str:
    """The language model's own template of one made by ``add_pictures_to_template``."""
    return template.removeprefix(_TEMPLATE_PREFIX)
