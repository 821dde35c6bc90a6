"""Tokenizer of the PS3 text tower: cleaning, then an ordinary transformers tokenizer padded to a fixed
length.

It is a wrapper and not a transformers tokenizer, because that is the published format: a
``tokenizer_config.json`` that names another tokenizer and says how to clean a text before it.
"""

import html
import json
import os
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..errors import VilaHDError

CleanMode = Literal["whitespace", "lower", "canonicalize"]
"""How a text is cleaned after repairing its unicode and unescaping HTML. ``whitespace``: runs of white space
become one space; ``lower``: also lower case; ``canonicalize``: also without ASCII punctuation, ``_`` read as
a space."""

CONFIG_NAME = "tokenizer_config.json"
"""File of the wrapper's options, next to the model's weights."""

_CONFIG_KEYS = ("tokenizer_name", "context_length", "clean", "strip_sep_token", "language")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, mode: CleanMode = "canonicalize") -> str:
    """``text`` as the published text towers were trained to read it; see ``CleanMode``."""
    # Imported here because only text towers need it: images and the multi-modal model work without.
    import ftfy

    # Unescaped twice, because captions from the web are often escaped twice.
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    if mode == "canonicalize":
        text = text.replace("_", " ").translate(_NO_PUNCTUATION)
    if mode in ("canonicalize", "lower"):
        text = text.lower()
    return " ".join(text.split())


class PS3Tokenizer:
    """Texts to token ids of a fixed length.

    Args:
        tokenizer_name: Folder or hub id of the tokenizer that does the work, or a loaded one.
        context_length: Length that every text is padded or cut to, in tokens.
        clean: How texts are cleaned first.
        strip_sep_token: Replace the tokenizer's separator id by 0, as some published models expect.
        language: Language of a multilingual tokenizer; None: leave its default.

    Raises:
        VilaHDError: an option has a value it cannot have, or there is no tokenizer at ``tokenizer_name``.
    """

    def __init__(
        self,
        tokenizer_name: str | os.PathLike[str] | PreTrainedTokenizerBase,
        *,
        context_length: int = 77,
        clean: CleanMode = "whitespace",
        strip_sep_token: bool = False,
        language: str | None = None,
    ) -> None:
        self.context_length = _check_length(context_length)
        if clean not in get_args(CleanMode):
            raise VilaHDError(f"clean={clean!r}: use one of {', '.join(get_args(CleanMode))}")
        self.clean: CleanMode = clean
        self.strip_sep_token = strip_sep_token
        self.language = language
        if isinstance(tokenizer_name, PreTrainedTokenizerBase):
            self.tokenizer = tokenizer_name
            self.tokenizer_name = tokenizer_name.name_or_path
        else:
            self.tokenizer_name = str(tokenizer_name)
            self.tokenizer = _load_tokenizer(self.tokenizer_name)
        if self.tokenizer.pad_token_id is None:
            raise VilaHDError(f"the tokenizer {self.tokenizer_name!r} has no padding token: give it one")
        if language is not None:
            self._set_language(language)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        tokenizer_name: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """The tokenizer of a published folder or hub repository.

        Args:
            pretrained_model_name_or_path: Folder, or hub id, with a ``tokenizer_config.json``.
            tokenizer_name: Underlying tokenizer to use instead of the one that the file names, for instance a
                local copy.
            revision: Branch, tag or commit of a hub repository.
            **options: Overrides of the file's ``context_length``, ``clean``, ``strip_sep_token`` and
                ``language``.

        Raises:
            VilaHDError: no such file, a broken one, unknown options, or no underlying tokenizer.
        """
        path = _find_config(pretrained_model_name_or_path, revision)
        stored = _read_config(path)
        if unknown := sorted(set(options) - set(_CONFIG_KEYS)):
            raise VilaHDError(f"unknown tokenizer option(s) {unknown}; known: {list(_CONFIG_KEYS[1:])}")
        stored.update(options)
        name = stored.pop("tokenizer_name", None) if tokenizer_name is None else tokenizer_name
        stored.pop("tokenizer_name", None)
        if name is None:
            raise VilaHDError(f"{path} has no 'tokenizer_name': pass tokenizer_name=")
        if isinstance(name, str) and (path.parent / name).is_dir() and not Path(name).is_dir():
            name = path.parent / name  # a folder next to the file, so that a saved folder can be moved
        return cls(name, **stored)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, copy_tokenizer: bool = False
    ) -> None:
        """Write ``tokenizer_config.json``; with ``copy_tokenizer`` also the underlying tokenizer, into a
        sub-folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        name = self.tokenizer_name
        if copy_tokenizer:
            name = "text_tokenizer"
            self.tokenizer.save_pretrained(str(folder / name))
        stored = {key: getattr(self, key) for key in _CONFIG_KEYS} | {"tokenizer_name": name}
        (folder / CONFIG_NAME).write_text(json.dumps(stored), encoding="utf-8")

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids ``(texts, context_length)``, int64, padded at the end.

        Args:
            texts: One text or several.
            context_length: Length in tokens; None: this tokenizer's own.

        Raises:
            VilaHDError: not texts, no texts, or a length below 1.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
            raise VilaHDError(f"texts={texts!r}: use a string or a non-empty list of strings")
        ids = self.tokenizer(
            [clean_text(text, self.clean) for text in texts],
            return_tensors="pt",
            max_length=self.context_length if context_length is None else _check_length(context_length),
            padding="max_length",
            truncation=True,
        ).input_ids
        if self.strip_sep_token and self.tokenizer.sep_token_id is not None:
            ids = ids.masked_fill(ids == self.tokenizer.sep_token_id, 0)
        return ids

    def __len__(self) -> int:
        return len(self.tokenizer)

    def _set_language(self, language: str) -> None:
        setter: Callable[[str], None] | None = getattr(self.tokenizer, "set_src_lang_special_tokens", None)
        if setter is None:
            raise VilaHDError(
                f"language={language!r}: the tokenizer {self.tokenizer_name!r} has no languages"
            )
        setter(language)


def _check_length(length: int) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise VilaHDError(f"context_length={length!r}: use a whole number >= 1")
    return length


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VilaHDError(
            f"no tokenizer at {name!r} ({first}): pass tokenizer_name= with a folder or hub id that holds one"
        ) from error


def _find_config(name: str | os.PathLike[str], revision: str | None) -> Path:
    """The options file of a folder, or of a hub repository (downloaded or cached)."""
    folder = Path(name)
    if folder.is_file():
        return folder
    if folder.is_dir():
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
        raise VilaHDError(f"{folder} has no {CONFIG_NAME}: use the folder of a PS3 text model")
    try:
        found = cached_file(str(name), CONFIG_NAME, revision=revision)
    except OSError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VilaHDError(f"no tokenizer options at {str(name)!r}: {first}") from error
    return Path(str(found))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VilaHDError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(stored, dict):
        raise VilaHDError(
            f"{path} holds a {type(stored).__name__}, expected an object with {list(_CONFIG_KEYS)}"
        )
    # Other keys are left alone: a published folder may carry those of other tools.
    return {key: stored[key] for key in _CONFIG_KEYS if key in stored}
