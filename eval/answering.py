"""One model under many conditions: batches of questions in, predictions out."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vila_hd.loading import BUNDLED, load
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.options import Box
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.pruning.looks import layers_of
from vila_hd.ps3.outputs import LowRes
from vila_hd.two_step import Phases, Prefill

from .conditions import Condition
from .registry import Benchmark, Example
from .store import Prediction


def fingerprint(name: str) -> str:
    """A short hash of the weights of a model folder; of a hub id, the id itself."""
    folder = BUNDLED if name == "nano" else Path(name).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return name
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def box_recall(chosen: Tensor, box: Box, size: tuple[int, int]) -> float:
    """Share of the patches touching ``box`` that were chosen.

    Args:
        chosen: ``(rows, columns)`` bool: the patches of one scale; the grid spans the whole picture.
        box: in pixels of the picture.
        size: width and height of the picture in pixels.
    """
    rows, columns = chosen.shape
    width, height = size
    x1, y1, x2, y2 = box
    left, right = int(x1 * columns / width), -int(-x2 * columns // width)
    top, bottom = int(y1 * rows / height), -int(-y2 * rows // height)
    return float(chosen[top:bottom, left:right].float().mean())


class Answerer:
    """A loaded model that answers batches.

    Args:
        name: as for ``vila_hd.load``.
        dtype: as for ``vila_hd.load``, as are the others.
        device: see there.
        revision: see there.

    Raises:
        VilaHDError: the model cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
    ) -> None:
        model, processor = load(name, dtype=dtype, device=device, revision=revision)
        self._take(model, processor)

    @classmethod
    def of(cls, model: VilaHDForConditionalGeneration, processor: VilaHDProcessor) -> "Answerer":
        """An answerer around a model that is in memory already."""
        answerer = cls.__new__(cls)
        answerer._take(model, processor)
        return answerer

    def _take(self, model: VilaHDForConditionalGeneration, processor: VilaHDProcessor) -> None:
        self.model, self.processor = model, processor
        self.processor.tokenizer.padding_side = "left"

    @torch.inference_mode()
    def answer(
        self, benchmark: Benchmark, examples: Sequence[Example], conditions: Sequence[Condition]
    ) -> list[Prediction]:
        """Predictions of every example under every condition. The low-resolution pass is shared."""
        pictures = [example.load_images() for example in examples]
        inputs = self._inputs(examples, pictures)
        tower = self.model.model.vision_tower
        started = time.perf_counter()
        pixels = [picture.to(self.model.device) for picture in inputs["pixel_values"]]
        wanted = [layers_of(self.model.model, condition.pruning) for condition in conditions]
        low = tower.encode_low_res(pixels, layers=max(wanted, key=len))
        shared_seconds = (time.perf_counter() - started) / len(examples)
        predictions: list[Prediction] = []
        for condition in conditions:
            started = time.perf_counter()
            prefill, texts = self._run(inputs, low, benchmark, condition)
            seconds = (time.perf_counter() - started) / len(examples) + shared_seconds
            owners = [number for number, shown in enumerate(pictures) for _ in shown]
            lengths = prefill.attention_mask.sum(1).tolist()
            for number, (example, text) in enumerate(zip(examples, texts, strict=True)):
                mine = [look for look, owner in enumerate(owners) if owner == number]
                sizes = [picture.size for picture in pictures[number]]
                predictions.append(
                    Prediction(
                        uid=example.uid,
                        condition=condition.key,
                        prediction=text,
                        answer=example.answers[0],
                        score=benchmark.score(example, text),
                        group=example.group,
                        seconds=seconds,
                        prompt_tokens=lengths[number],
                        **self._count(prefill, mine, example, sizes),
                    )
                )
        return predictions

    @torch.inference_mode()
    def reading_seconds(self, example: Example, condition: Condition) -> dict[str, float]:
        """Seconds of each part of reading one question, as ``Phases`` calls them; it is not answered."""
        inputs, phases = self._inputs([example], [example.load_images()]), Phases(self.model.device)
        given = (inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"])
        self.model.prefill(*given, high_res=condition.options(), phases=phases)
        return phases.seconds

    def _inputs(self, examples: Sequence[Example], pictures: Sequence[Sequence[Any]]) -> Any:
        """What the model reads of questions and their pictures."""
        prompts = [
            self._prompt(example, len(shown)) for example, shown in zip(examples, pictures, strict=True)
        ]
        return self.processor(
            [list(shown) for shown in pictures],
            prompts,
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _prompt(self, example: Example, num_images: int) -> str:
        items: list[dict[str, Any]] = [{"type": "image"}] * num_images
        message = {"role": "user", "content": [*items, {"type": "text", "text": example.prompt}]}
        text = self.processor.apply_chat_template([message], add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def _run(
        self,
        inputs: Any,
        low: LowRes,
        benchmark: Benchmark,
        condition: Condition,
    ) -> tuple[Prefill, list[str]]:
        """The prefilled prompts and the answers under one condition."""
        prefill = self.model.prefill(
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["pixel_values"],
            high_res=condition.options(),
            low_res=low,
        )
        ids = self.model.generate_from(
            prefill, inputs["input_ids"], max_new_tokens=benchmark.max_new_tokens, do_sample=False
        )
        assert isinstance(ids, Tensor)
        new_ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return prefill, [text.strip() for text in texts]

    def _count(
        self, prefill: Prefill, looks: Sequence[int], example: Example, sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """Patches, tokens and recall of one example's looks."""
        tokens = sum(prefill.low_counts[look] + prefill.counts[look] for look in looks)
        recalls: list[float] = []
        patches = 0
        maps = None if prefill.selection is None else prefill.selection.maps()
        for which, look in enumerate(looks):
            if maps is not None:
                patches += sum(int(scale.sum()) for scale in maps[look])
            for box in example.regions[which] if example.regions else ():
                recalls.append(0.0 if maps is None else box_recall(maps[look][-1], box, sizes[which]))
        recall = sum(recalls) / len(recalls) if recalls else None
        return {"patches": patches, "visual_tokens": tokens, "recall": recall}
