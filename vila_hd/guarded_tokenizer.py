"""Tokenising a rendered chat so that special tokens come from its template only."""

import bisect
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from .errors import VilaHDError

Span = tuple[int, int]


class GuardedTokenizer:
    """A fast tokenizer that takes special tokens inside of given spans as ordinary characters.

    It is a copy of the tokenizer in which every special token has a second name that nobody writes; names
    stand in for the template's own special tokens while special tokens as such are off. All other ids, also
    at the edges of a span, are those of the tokenizer itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Copy ``tokenizer``, a ``PreTrainedTokenizerFast``."""
        tokens = special_tokens(tokenizer)
        self._copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._copy.no_padding()
        self._copy.no_truncation()
        self._names = {token: f"\U0010fffd{i}\U0010fffc" for i, token in enumerate(tokens)}
        flags = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        self._copy.add_tokens([_named(self._names[token], flags.get(token)) for token in tokens])
        self._ids = {self._copy.token_to_id(name): tokens[token] for token, name in self._names.items()}
        # Longest first, as added tokens are matched.
        self._pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")

    def encode(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Ids of ``text`` and the characters that each stands for.

        Args:
            text: a rendered chat.
            spans: characters that hold no special tokens, in order, not overlapping.
        """
        named: list[str] = []
        # Where a name ends in the text with names -> where its token ends in ``text``.
        ends, originals = [0], [0]
        length = position = 0
        for start, stop in [*spans, (len(text), len(text))]:
            for match in self._pattern.finditer(text, position, start):
                name = self._names[match[0]]
                named += [text[position : match.start()], name]
                length += match.start() - position + len(name)
                position = match.end()
                ends.append(length)
                originals.append(position)
            named.append(text[position:stop])
            length += stop - position
            position = stop
        self._copy.encode_special_tokens = True  # a copy in another process does not inherit it
        encoding = self._copy.encode("".join(named), add_special_tokens=False)

        def original(place: int) -> int:
            i = bisect.bisect_right(ends, place) - 1
            # Inside of a name, a place must not run past its token's start.
            here = originals[i] + place - ends[i]
            return min(here, originals[i + 1]) if i + 1 < len(originals) else here

        ids = [self._ids.get(token, token) for token in encoding.ids]
        return ids, [(original(start), original(stop)) for start, stop in encoding.offsets]


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Special token -> id, of a transformers tokenizer."""
    tokens = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return tokens | {str(token): number for token, number in named if number is not None}


def require_offsets(tokenizer: Any) -> None:
    """Pass when ``tokenizer`` can say which characters a token stands for.

    Raises:
        VilaHDError: it is one of the slow, pure Python ones.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise VilaHDError(
            f"tokenizer {type(tokenizer).__name__} does not say which characters a token stands for; save it "
            "in the fast format (tokenizer.json)"
        )


def _named(name: str, token: AddedToken | None) -> AddedToken:
    if token is None:
        return AddedToken(name, normalized=False, special=False)
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=False,
        special=False,
    )
