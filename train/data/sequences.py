"""Rows as token sequences, cut between turns where they are too long."""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_compat.data import Row
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.supervision import ConversationEncoder, EncodedConversation, guiding_position


class TooLongError(VilaHDError):
    """Not even the first turn fits."""


@dataclass(frozen=True)
class TokenSequence:
    """The part of a row that is learned from."""

    input_ids: list[int]
    labels: list[int]
    look_positions: list[int]
    """Per picture: the token whose state guides the choice of its patches, where the first question after it
    ends."""

    length: int
    """Tokens with all high-resolution ones, at most."""

    truncated: bool
    """Whether turns were left out."""


class SequenceEncoder:
    """Encodes rows with a processor and counts what they take in the language model's context."""

    def __init__(
        self,
        processor: VilaHDProcessor,
        *,
        options: HighResOptions,
        max_length: int,
        max_pictures: int | None = None,
        prompt_end_ids: Sequence[int],
    ) -> None:
        """Encode for ``processor``.

        Args:
            processor: the model's.
            options: how closely the stage looks.
            max_length: most tokens, visual ones included.
            max_pictures: most pictures; None: any number.
            prompt_end_ids: ``VilaHDConfig.prompt_end_ids``.
        """
        self.encoder = ConversationEncoder(processor)
        self.processor = processor
        self.options = options
        self.max_length = max_length
        self.max_pictures = max_pictures
        self.prompt_end_ids = list(prompt_end_ids)

    def __call__(self, row: Row, sizes: Sequence[tuple[int, int]]) -> TokenSequence:
        """The sequence of ``row``, whose pictures have these sizes (width, height) in pixels.

        Raises:
            TooLongError: the first turn does not fit into ``max_length``, or has too many pictures.
            VilaHDError: the chat template does not take the row.
        """
        encoded = self.encoder(row.to_chat())
        counts = self.processor.count_image_tokens([(height, width) for width, height in sizes], self.options)
        ends = self._picture_ends(encoded)
        kept, length = None, 0
        for turn in encoded.turns:
            inside = sum(end < turn.stop for end in ends)
            total = turn.stop + sum(count.high_res for count in counts[:inside])
            if total > self.max_length or (self.max_pictures is not None and inside > self.max_pictures):
                break
            kept, length = turn, total
        if kept is None:
            raise self._too_long(row, total, total - turn.stop, inside)
        return TokenSequence(
            # What the template writes after the turn teaches nothing.
            input_ids=encoded.input_ids[: kept.stop],
            labels=encoded.labels[: kept.stop],
            look_positions=self._look_positions(encoded, [end for end in ends if end < kept.stop]),
            length=length,
            truncated=kept is not encoded.turns[-1],
        )

    def _too_long(self, row: Row, total: int, high_res: int, pictures: int) -> TooLongError:
        where = f"{row.source}: sample {row.id!r:.80}: the first turn"
        if total <= self.max_length:
            return TooLongError(
                f"{where} shows {pictures} pictures, more than data.max_pictures={self.max_pictures}"
            )
        return TooLongError(
            f"{where} takes up to {total} tokens, {high_res} of them high-resolution ones, more than "
            f"data.max_length={self.max_length}; raise it, or lower looks.per_scale or looks.passes"
        )

    def _picture_ends(self, encoded: EncodedConversation) -> list[int]:
        """Place of the last placeholder of each picture."""
        token, run = self.processor.image_token_id, self.processor.low_res_tokens
        places = [place for place, number in enumerate(encoded.input_ids) if number == token]
        return places[run - 1 :: run]

    def _look_positions(self, encoded: EncodedConversation, ends: Sequence[int]) -> list[int]:
        positions = [
            guiding_position(encoded.input_ids[: turn.start], self.prompt_end_ids) for turn in encoded.turns
        ]
        return [next(place for place in positions if place > end) for end in ends]
