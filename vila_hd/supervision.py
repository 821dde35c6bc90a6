"""Conversations as training sequences: ids, and labels on exactly what the assistant has to write.

The conversation is rendered and tokenised once, with offsets. Labels are the tokens between the end of the
generation prompt and the token that ends the turn, inclusive, wherever the template puts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .constants import IGNORE_INDEX
from .errors import VilaHDError
from .guarded_tokenizer import GuardedTokenizer, require_offsets, special_tokens
from .processing_vila_hd import VilaHDProcessor
from .rendered_chat import Chat, RenderedChat, Reply, Span, check_chat, count_images, render_chat
from .utils.logging import get_logger, warn_once
from .utils.text import one_line

logger = get_logger(__name__)


@dataclass(frozen=True)
class Turn:
    """One answer in the sequence."""

    message: int
    """Index of the assistant's message."""

    start: int
    """First token that a model has to write, so also the length of the prompt."""

    stop: int
    """Token after the last one to write: the answer and the token that ends its turn lie before it."""

    ended: bool
    """Whether the template writes a token that ends the turn."""


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as a training sequence."""

    text: str
    """What the chat template made of it."""

    input_ids: list[int]
    """Every ``<image>`` expanded as the processor does."""

    labels: list[int]
    """``input_ids`` where a model learns to write them, else ``IGNORE_INDEX``. Not shifted."""

    offsets: list[Span]
    """Characters of ``text`` that each token stands for."""

    turns: tuple[Turn, ...]
    """One per answer, in the order of the sequence."""

    def prompt_positions(self, prompt_end_ids: Sequence[int]) -> list[int]:
        """Per turn: the token whose state guides the choice of patches for this answer.

        Args:
            prompt_end_ids: ``VilaHDConfig.prompt_end_ids``; see :func:`guiding_position`.
        """
        return [guiding_position(self.input_ids[: turn.start], prompt_end_ids) for turn in self.turns]


def guiding_position(prompt_ids: Sequence[int], prompt_end_ids: Sequence[int]) -> int:
    """Position whose state guides the choice: before the last ``prompt_end_ids``, or the last one without
    any.

    The model finds the same one in a prompt (``fusion.find_prompt_positions``).
    """
    ids, end = list(prompt_ids), list(prompt_end_ids)
    for start in range(len(ids) - len(end), 0, -1):
        if end and ids[start : start + len(end)] == end:
            return start - 1
    return len(ids) - 1


class ConversationEncoder:
    """Turns conversations into ids and labels with a processor's chat template and tokenizer.

    A special token that somebody wrote into a message (``<|im_end|>``, ``</s>``) is encoded as the
    characters it consists of, so no message can end its own turn or begin another one; ``<image>`` in a text
    is an error, because pictures are items of their own.
    """

    def __init__(self, processor: VilaHDProcessor, *, published: bool = False) -> None:
        """Encode for ``processor``.

        Args:
            processor: the model's.
            published: give ids and labels of the published training code, with its quirks: special tokens in
                messages act as such, and the first token of an answer that equals the token after its turn (a
                line feed, with ChatML) carries no label, while the one after the turn does.

        Raises:
            VilaHDError: the tokenizer gives no offsets.
        """
        require_offsets(processor.tokenizer)
        self.processor = processor
        self.published = published
        self._special = special_tokens(processor.tokenizer)
        self._guard: GuardedTokenizer | None = None

    def __call__(self, messages: Chat) -> EncodedConversation:
        """The training sequence of one conversation.

        Args:
            messages: each with ``role`` (``system``, ``user``, ``assistant``) and ``content``: a text, or a
                list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}``.

        Raises:
            VilaHDError: a message of another form, a template that fails or hides where an answer stands,
                pictures that the template drops, or nothing to supervise.
        """
        checked = check_chat(messages)
        if not any(message["role"] == "assistant" for message in checked):
            raise VilaHDError(
                f"nothing to supervise: none of the {len(checked)} message(s) is the assistant's; add one"
            )
        chat = render_chat(self._render, checked)
        ids, offsets = self._tokenise(chat)
        expanded, offsets = self.processor.expand_placeholders(ids, offsets)
        self._check_pictures(ids, checked)
        turns = tuple(self._place(chat, reply, expanded, offsets) for reply in chat.replies)
        labels = self._label(expanded, turns)
        if all(label == IGNORE_INDEX for label in labels):
            raise VilaHDError(
                "nothing to supervise: every answer is empty and the chat template ends no turn; write one"
            )
        return EncodedConversation(chat.text, expanded, labels, offsets, turns)

    def prompt(self, messages: Chat) -> list[int]:
        """Ids of a conversation that waits for its answer; ``<image>`` in a text is ordinary characters, too.

        Args:
            messages: see ``__call__``; the last one is not the assistant's.

        Raises:
            VilaHDError: a message of another form, a template that fails, or pictures that it drops.
        """
        checked = check_chat(messages, literal=True)
        if checked[-1]["role"] == "assistant":
            raise VilaHDError("the last message is the assistant's: end with a question")
        ids, _ = self._tokenise(render_chat(lambda given, _: self._render(given, True), checked))
        self._check_pictures(ids, checked)
        return self.processor.expand_placeholders(ids)[0]

    def _check_pictures(self, ids: list[int], messages: list[dict[str, Any]]) -> None:
        found, expected = ids.count(self.processor.image_token_id), count_images(messages)
        if found != expected:
            raise VilaHDError(
                f"the conversation has {expected} picture(s) but the chat template writes {found} "
                f"{self.processor.image_token}; use a template that reads image items "
                "(vila_hd.add_pictures_to_template)"
            )

    def _render(self, messages: list[dict[str, Any]], generation_prompt: bool) -> str:
        try:
            text = self.processor.apply_chat_template(messages, add_generation_prompt=generation_prompt)
        except VilaHDError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            reason = one_line(error) or type(error).__name__
            raise VilaHDError(
                f"the chat template fails on this conversation ({reason}); mend chat_template.jinja, or give "
                "it to vila_hd.add_pictures_to_template if it reads texts only"
            ) from error
        assert isinstance(text, str)
        return text

    def _tokenise(self, chat: RenderedChat) -> tuple[list[int], list[Span]]:
        """Ids and offsets of the rendered text. Template and words are tokenised together."""
        encoded = self.processor.tokenizer(
            chat.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = (
            list(encoded["input_ids"]),
            [(start, stop) for start, stop in encoded["offset_mapping"]],
        )
        if self.published:
            return ids, offsets
        lost = [token for token in self._special for words in chat.lost if token in words]
        if lost:
            raise VilaHDError(
                f"a message that the chat template cuts to pieces contains the special token {lost[0]!r}; "
                "write it differently"
            )
        if self._written(ids, offsets, chat):
            self._guard = self._guard or GuardedTokenizer(self.processor.tokenizer)
            ids, offsets = self._guard.encode(chat.text, chat.spans)
            if still := self._written(ids, offsets, chat):
                raise VilaHDError(
                    f"a message contains the special token {still!r}, which this tokenizer cannot write as "
                    "ordinary characters; write it differently"
                )
        return ids, offsets

    def _written(self, ids: list[int], offsets: list[Span], chat: RenderedChat) -> str | None:
        """A special token that somebody wrote into a message, if there is one."""
        names = {number: token for token, number in self._special.items()}
        spans, place = chat.spans, 0
        for number, (start, stop) in zip(ids, offsets, strict=True):
            # The token for unknown words stands on other characters than its name.
            if number in names and names[number] in chat.text[start:stop]:
                while place < len(spans) and spans[place][1] <= start:
                    place += 1
                if place < len(spans) and spans[place][0] < stop and not self._is_unknown(number):
                    return names[number]
        return None

    def _is_unknown(self, number: int) -> bool:
        """Whether a token only says that words are unknown: it ends no turn, whoever writes it."""
        tokenizer = self.processor.tokenizer
        return number == tokenizer.unk_token_id != tokenizer.eos_token_id

    def _place(self, chat: RenderedChat, reply: Reply, ids: list[int], offsets: list[Span]) -> Turn:
        """Tokens of an answer: those with a character of it, and what follows through the end of its turn."""
        count = len(ids)
        start = next((i for i, (_, stop) in enumerate(offsets) if stop > reply.start), count)
        stop = next((i for i in range(start, count) if offsets[i][0] >= reply.stop), count)
        special, picture = set(self._special.values()), self.processor.image_token_id
        # White space may stand between an answer and the special token that ends its turn.
        for i in range(stop, count):
            if offsets[i][0] >= reply.limit or ids[i] == picture:
                break
            if ids[i] in special:
                return Turn(reply.message, start, i + 1, ended=True)
            if chat.text[slice(*offsets[i])].strip():
                break
        # Without a special token it is the token after the answer, like the published code's stop tokens.
        if stop < count and offsets[stop][0] < reply.limit and ids[stop] != picture:
            end = chat.text[slice(*offsets[stop])]
            warn_once(
                logger,
                f"no special token follows answers: {end!r} is learned as their end; check that the chat "
                "template belongs to this tokenizer",
            )
            return Turn(reply.message, start, stop + 1, ended=True)
        ended = stop > start and offsets[stop - 1][1] > reply.stop
        if not ended:
            warn_once(
                logger, "the chat template writes nothing after an answer: the model will not learn to stop"
            )
        return Turn(reply.message, start, stop, ended)

    def _label(self, ids: list[int], turns: Sequence[Turn]) -> list[int]:
        labels = [IGNORE_INDEX] * len(ids)
        for turn in turns:
            labels[turn.start : turn.stop] = ids[turn.start : turn.stop]
        return _as_published(ids, labels) if self.published else labels


def _as_published(ids: list[int], labels: list[int]) -> list[int]:
    """Labels that the published code makes: it aligns the sequence, greedily from the left, with the sequence
    without what is supervised, and labels what does not match."""
    rest = iter([i for i, label in zip(ids, labels, strict=True) if label == IGNORE_INDEX])
    expected = next(rest, None)
    aligned = []
    for i in ids:
        if i == expected:
            aligned.append(IGNORE_INDEX)
            expected = next(rest, None)
        else:
            aligned.append(i)
    return aligned
