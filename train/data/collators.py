"""Rows -> batches of tensors. Pictures stay uint8 and are shared by their items through ``look_index``."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vila_hd.constants import IGNORE_INDEX
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.supervision import ConversationEncoder

from .account import Report
from .samples import Sample
from .scenes import Picture, Questions, Regions

BOX_UNIT = 64
"""Parts of a pixel in which boxes of rows are given, as whole numbers."""


def _picture_tensors(pictures: Sequence[Picture], items: Sequence[int]) -> dict[str, Any]:
    """What every batch holds about its pictures; ``items``: number of looks at each of them.

    Boxes stay whole pixels until the model is called: an engine that casts floating inputs to bf16 must not
    move them.
    """
    return {
        "pixel_values": [picture.pixels for picture in pictures],
        "look_index": torch.repeat_interleave(torch.arange(len(pictures)), torch.tensor(items)),
        "picture_sizes": torch.tensor([[p.pixels.shape[2], p.pixels.shape[1]] for p in pictures]),
        "picture_ids": torch.tensor([picture.picture_id for picture in pictures]),
        "all_boxes": [picture.boxes for picture in pictures],
    }


def _number(ids: Tensor) -> int:
    """A 63-bit number of token ids, the same in every process."""
    return int.from_bytes(hashlib.blake2b(ids.numpy().tobytes(), digest_size=8).digest(), "big") >> 1


class RegionCollator:
    """Batches of ``ps3_pretrain``: one look per caption, those of regions first, then those of whole
    pictures.

    Looks at whole pictures have an empty box. Every wording is encoded once: ``text_index`` says which text
    belongs to a look, ``swapped_index`` which texts are wrong for it.
    """

    def __init__(self, tokenizer: PS3Tokenizer) -> None:
        """Tokenise captions with ``tokenizer``."""
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[Regions]) -> dict[str, Any]:
        """Batch of ``rows``. When one could not be made there is none, and ``report`` says why."""
        reports = [row.report for row in rows if row.report is not None]
        report = {"report": Report.merge(reports)} if reports else {}
        if reports and report["report"].failure is not None:
            return report
        whole = torch.tensor([i for i, row in enumerate(rows) if row.use_global], dtype=torch.long)
        captions = [caption for row in rows for caption in row.captions]
        captions += [rows[i].picture.global_caption for i in whole.tolist()]
        swapped = [wrong for row in rows for wrong in row.swapped]
        swapped += [rows[i].global_swapped for i in whole.tolist()]
        texts = {text: None for group in (captions, *swapped) for text in group}
        number = {text: i for i, text in enumerate(texts)}
        wrong_index = torch.full((len(captions), max(map(len, swapped), default=0)), -1)
        for i, group in enumerate(swapped):
            wrong_index[i, : len(group)] = torch.tensor([number[text] for text in group], dtype=torch.long)
        batch = _picture_tensors([row.picture for row in rows], [len(row.captions) for row in rows])
        input_ids = self.tokenizer(list(texts))
        text_index = torch.tensor([number[caption] for caption in captions])
        return {
            **batch,
            "look_index": torch.cat([batch["look_index"], whole]),
            "is_global": torch.arange(len(captions)) >= len(batch["look_index"]),
            "boxes": torch.cat([*(row.boxes for row in rows), torch.zeros(len(whole), 4, dtype=torch.long)]),
            "input_ids": input_ids,
            "text_index": text_index,
            "swapped_index": wrong_index,
            # Of the tokens: texts that differ in what is cleaned away or cut off are the same to the model.
            "caption_ids": torch.tensor([_number(ids) for ids in input_ids])[text_index],
            **report,
        }


class QuestionCollator:
    """Batches of ``align``, ``sft`` and ``select``: one sequence per look, one picture each.

    Labels are the assistant's words and the token that ends its turn; everything else is ignored.
    """

    def __init__(self, processor: VilaHDProcessor, prompt_end_ids: Sequence[int]) -> None:
        """Build sequences with the processor's template and placeholder counts.

        Args:
            processor: the model's.
            prompt_end_ids: ``VilaHDConfig.prompt_end_ids``: what follows the token whose state guides the
            choice.
        """
        self.processor = processor
        self.encoder = ConversationEncoder(processor)
        self.prompt_end_ids = list(prompt_end_ids)

    def __call__(self, rows: Sequence[Questions]) -> dict[str, Any]:
        """Batch of ``rows``, which have equally many turns."""
        encoded = [
            self._encode(questions, answers)
            for row in rows
            for questions, answers in zip(row.questions, row.answers, strict=True)
        ]
        length = max(len(ids) for ids, _, _ in encoded)
        pad = self.processor.tokenizer.pad_token_id
        return {
            **_picture_tensors([row.picture for row in rows], [len(row.questions) for row in rows]),
            "boxes": torch.cat([row.boxes[:, 0] for row in rows]),
            "turn_boxes": torch.cat([row.boxes[:, 1:].flatten(0, 1) for row in rows]),
            "turn_look": torch.arange(len(encoded)).repeat_interleave(rows[0].boxes.shape[1] - 1),
            "own_choice": torch.tensor([flag for row in rows for flag in row.own_choice]),
            "input_ids": _left_pad([ids for ids, _, _ in encoded], length, pad),
            "attention_mask": _left_pad([torch.ones_like(ids) for ids, _, _ in encoded], length, 0),
            "labels": _left_pad([labels for _, labels, _ in encoded], length, IGNORE_INDEX),
            # The token whose state guides the choice of patches.
            "prompt_positions": torch.tensor([length - len(ids) + position for ids, _, position in encoded]),
        }

    def _encode(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[Tensor, Tensor, int]:
        """``input_ids`` and ``labels``, both ``(tokens,)``, and the position that guides the choice."""
        messages: list[dict[str, Any]] = []
        for question, answer in zip(questions, answers, strict=True):
            picture = [] if messages else [{"type": "image"}]
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": answer})
        encoded = self.encoder(messages)
        position = encoded.prompt_positions(self.prompt_end_ids)[0]
        # What the template writes after the last turn teaches nothing.
        stop = encoded.turns[-1].stop
        ids, labels = (torch.tensor(row[:stop]) for row in (encoded.input_ids, encoded.labels))
        return ids, labels, position


class SampleCollator:
    """Batches of rows: one sequence each, with any number of pictures, also none in the whole batch.

    Every picture is looked at once; ``box_look`` says which look a box belongs to.
    """

    def __init__(self, pad_token_id: int) -> None:
        """Pad with ``pad_token_id``, on the right: what follows a question is not read to choose patches."""
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Batch of ``samples``. When one of them could not be made there is none, and ``report`` says why."""
        report = Report.merge(sample.report for sample in samples)
        if report.failure is not None:
            return {"report": report, "labels": torch.full((1, 1), IGNORE_INDEX)}
        length = max(len(sample.input_ids) for sample in samples)
        sizes = [size for sample in samples for size in sample.sizes]
        boxes = [entry for sample in samples for entry in sample.boxes]
        pixels = [picture for sample in samples for picture in sample.pictures]
        unit_boxes = [
            torch.tensor(entry, dtype=torch.float64).view(-1, 4).mul(BOX_UNIT).round().long()
            for entry in boxes
        ]
        counts = torch.tensor([len(entry) for entry in boxes], dtype=torch.long)
        return {
            "report": report,
            "pixel_values": pixels or None,
            "look_index": torch.arange(len(pixels)),
            "picture_sizes": torch.tensor(sizes, dtype=torch.long).view(-1, 2) * BOX_UNIT,
            "all_boxes": unit_boxes,
            "boxes": torch.cat([torch.zeros(0, 4, dtype=torch.long), *unit_boxes]),
            "box_look": torch.arange(len(boxes)).repeat_interleave(counts),
            "own_choice": torch.tensor(
                [x for sample in samples for x in sample.own_choice], dtype=torch.bool
            ),
            "input_ids": _right_pad([sample.input_ids for sample in samples], length, self.pad_token_id),
            "attention_mask": _right_pad([(1,) * len(s.input_ids) for s in samples], length, 0),
            "labels": _right_pad([sample.labels for sample in samples], length, IGNORE_INDEX),
            "look_positions": torch.tensor(
                [place for sample in samples for place in sample.look_positions], dtype=torch.long
            ),
        }


def _right_pad(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def _left_pad(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, length - len(row) :] = row
    return padded


__all__ = ["BOX_UNIT", "QuestionCollator", "RegionCollator", "SampleCollator"]
