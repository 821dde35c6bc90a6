"""A SentencePiece tokenizer trained on the language of the scenes, as a folder that transformers opens."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..constants import IMAGE_TOKEN
from ..errors import VilaHDError
from .questions import vocabulary_corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<|end|>", "<unk>"
USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN, IMAGE_TOKEN, USER, ASSISTANT, SYSTEM, "\n")
"""In the order of their ids. The line feed is one of them, so that it is one token wherever it stands."""

VOCABULARY = 352
"""Pieces of the trained model: every word of the language is one piece from about 340 on."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}{%- generation -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
"""``<|user|>``, line feed, pictures and text, ``<|end|>``, line feed; answers likewise."""


def build_scene_tokenizer(
    folder: str | os.PathLike[str], *, corpus: Sequence[str] | None = None, vocabulary: int = VOCABULARY
) -> "PreTrainedTokenizerFast":
    """Train the tokenizer and save it.

    The folder gets ``tokenizer.model`` (SentencePiece), ``tokenizer.json`` (the same pieces for
    transformers), ``tokenizer_config.json`` and the chat template.

    Args:
        folder: created if missing.
        corpus: sentences to train on; None: every sentence of the scenes.
        vocabulary: number of pieces, special tokens included.

    Returns:
        The tokenizer as ``AutoTokenizer.from_pretrained(folder)`` opens it.

    Raises:
        VilaHDError: ``vocabulary`` is too small for the characters of the corpus or too large for its words.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = _train(list(vocabulary_corpus() if corpus is None else corpus), vocabulary)
    (folder / "tokenizer.model").write_bytes(model)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_convert(model),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE_TOKEN, USER, ASSISTANT, SYSTEM],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _train(corpus: list[str], vocabulary: int) -> bytes:
    """Train a byte-pair model whose pieces are whole words wherever the vocabulary allows."""
    import sentencepiece

    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=buffer,
            model_type="bpe",
            vocab_size=vocabulary,
            character_coverage=1.0,
            normalization_rule_name="identity",
            split_by_whitespace=True,
            split_digits=False,
            num_threads=1,
            minloglevel=2,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece=PAD,
            bos_piece=BOS,
            eos_piece=EOS,
            unk_piece=UNKNOWN,
            user_defined_symbols=list(SPECIAL_TOKENS[4:]),
        )
    except (RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[-1]
        raise VilaHDError(f"vocabulary={vocabulary}: SentencePiece cannot train ({first})") from error
    return buffer.getvalue()


def _convert(model: bytes) -> "Tokenizer":
    """The same byte-pair model for the ``tokenizers`` library."""
    import sentencepiece
    import tokenizers

    trained = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = {trained.id_to_piece(index): index for index in range(trained.get_piece_size())}
    fast = tokenizers.Tokenizer(
        tokenizers.models.BPE(pieces, _merges(pieces), unk_token=UNKNOWN, fuse_unk=True)
    )
    # As SentencePiece does by default: runs of spaces count once, none at the ends, one in front of the text.
    fast.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "), tokenizers.normalizers.Strip()]
    )
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    fast.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always", split=True)
    fast.add_special_tokens(
        [tokenizers.AddedToken(piece, normalized=False, special=True) for piece in SPECIAL_TOKENS[:-1]]
    )
    fast.add_tokens([tokenizers.AddedToken("\n", normalized=False, special=False)])
    return fast


def _merges(pieces: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, in SentencePiece's order: by the id of the result."""
    found = [
        (pieces[piece], pieces[piece[:cut]], piece[:cut], piece[cut:])
        for piece in pieces
        if piece not in SPECIAL_TOKENS
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [(left, right) for _, _, left, right in sorted(found)]
