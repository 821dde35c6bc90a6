"""Our models in lmms-eval: ``lmms-eval --model vila_hd --model_args pretrained=nano --tasks ...``.

``VilaHD``, the class that lmms-eval looks for, is made when it is first asked for, so that this module
imports without lmms-eval.
"""

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

import vila_hd
from vila_hd.batches import BatchAnswer, Prompt, PromptError, answer_batch
from vila_hd.errors import VilaHDError
from vila_hd.generation import MAX_NEW_TOKENS
from vila_hd.options import HighResOptions
from vila_hd.utils.imports import import_optional

from .lmms_eval_requests import AnswerSettings, read_chat, read_look_options, read_settings

if TYPE_CHECKING:
    from lmms_eval.api.instance import GenerationResult, Instance

NUM_FIELDS = 6
"""Fields of a chat request: context, doc_to_messages, generation_kwargs, document, task, split."""

Request = tuple[Any, ...]


class Adapter:
    """Answers requests of lmms-eval in batches, with any number of pictures each.

    The methods are those of ``lmms_eval.api.model.lmms``.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "nano",
        *,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str = "sdpa",
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        system_prompt: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        keep_paragraphs: bool = False,
        num_frames: int = 8,
        budget: int | str | None = None,
        guided_by: str | None = None,
        per_scale: str | int | None = None,
        max_scale: int | None = None,
        smooth: bool | None = None,
    ) -> None:
        """Load the model. Arguments are what ``--model_args`` may hold.

        Args:
            pretrained: ``nano``, a model folder (ours or a published one) or a hub id.
            device: as for ``vila_hd.load``; with several processes, ``cuda`` means the GPU of each.
            dtype: as for ``vila_hd.load``, as are the next three.
            attn_implementation: see there.
            revision: see there.
            trust_remote_code: see there.
            batch_size: requests that are answered together.
            max_batch_size: not used; lmms-eval passes it.
            system_prompt: a text, or the name of a file that holds it.
            max_new_tokens: longest answer where a task does not say.
            keep_paragraphs: see ``read_settings``.
            num_frames: frames of a video.
            budget: how closely to look where a request does not say; see ``HighResOptions``, as for the rest.
            guided_by: see there; None: what the checkpoint was trained for.
            per_scale: see there; numbers joined by ``+``.
            max_scale: see there.
            smooth: see there.

        Raises:
            VilaHDError: the model cannot be loaded, or an argument has no meaning.
        """
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise VilaHDError(f"batch_size={batch_size!r}: use a whole number >= 1")
        self.batch_size = int(batch_size)
        self.model, self.processor = vila_hd.load(
            pretrained,
            device=_device_of_process(device),
            dtype=dtype,
            attn_implementation=attn_implementation,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        # Every request says how long its answer may be; transformers warns when it finds a second length.
        self.model.generation_config.max_length = None
        self.system_prompt = _read_text(system_prompt)
        self.max_new_tokens, self.keep_paragraphs = max_new_tokens, keep_paragraphs
        self.num_frames = num_frames
        given = {
            "budget": budget,
            "guided_by": guided_by,
            "per_scale": per_scale,
            "max_scale": max_scale,
            "smooth": smooth,
        }
        self.look = read_look_options(given, HighResOptions(guided_by=self.model.config.default_guide))
        self.task_dict: dict[str, Any] = {}

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def generate_until(self, requests: "Sequence[Instance]") -> "list[GenerationResult]":
        """Answers with their numbers of tokens, in the order of the requests."""
        instance = import_optional("lmms_eval.api.instance", extra="lmms-eval", purpose="lmms-eval requests")
        return [
            instance.GenerationResult(
                text=answer.text,
                token_counts=instance.TokenCounts(
                    input_tokens=answer.prompt_tokens, output_tokens=answer.new_tokens
                ),
            )
            for answer in self.answer_requests([request.args for request in requests])
        ]

    def answer_requests(self, requests: Sequence[Request]) -> list[BatchAnswer]:
        """The answer to every request.

        Requests that want the same settings share batches; pictures are read batch by batch.

        Args:
            requests: ``args`` of chat requests.

        Raises:
            VilaHDError: a request of another kind, a setting that means nothing, or an unreadable file; names
                the document.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            if len(request) != NUM_FIELDS:
                raise VilaHDError(
                    f"a request of {len(request)} fields: chat requests have {NUM_FIELDS}; use lmms-eval "
                    ">= 0.7"
                )
            groups.setdefault(json.dumps(request[2], sort_keys=True, default=str), []).append(number)
        answers: dict[int, BatchAnswer] = {}
        rank = int(getattr(self, "rank", 0))
        with tqdm(total=len(requests), desc="vila_hd", disable=rank != 0) as bar:
            for numbers in groups.values():
                with _naming([requests[numbers[0]]]):
                    settings = self._settings(requests[numbers[0]][2] or {})
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    found = self._answer([requests[number] for number in batch], settings)
                    answers.update(zip(batch, found, strict=True))
                    bar.update(len(batch))
        return [answers[number] for number in range(len(requests))]

    def _settings(self, gen_kwargs: Mapping[str, Any]) -> AnswerSettings:
        return read_settings(
            gen_kwargs,
            self.look,
            max_new_tokens=self.max_new_tokens,
            keep_paragraphs=self.keep_paragraphs,
        )

    def _answer(self, requests: Sequence[Request], settings: AnswerSettings) -> list[BatchAnswer]:
        prompts = [self._prompt(request) for request in requests]
        with _naming(requests):
            config = copy.deepcopy(self.model.generation_config)
            config.update(**settings.generation)
            return answer_batch(
                self.model,
                self.processor,
                prompts,
                high_res=settings.high_res,
                max_new_tokens=settings.max_new_tokens,
                generation_config=config,
                until=settings.until,
            )

    def _prompt(self, request: Request) -> Prompt:
        _, doc_to_messages, _, document, task, split = request
        with _naming([request]):
            messages = doc_to_messages(self.task_dict[task][split][document])
            return read_chat(messages, system_prompt=self.system_prompt, num_frames=self.num_frames)

    def loglikelihood(self, requests: "Sequence[Instance]") -> list[tuple[float, bool]]:
        """Not supported: always raises ``NotImplementedError``."""
        raise NotImplementedError(
            "vila_hd answers in words: use tasks with output_type generate_until, not loglikelihood or "
            "multiple_choice"
        )

    def generate_until_multi_round(self, requests: "Sequence[Instance]") -> list[str]:
        """Not supported: always raises ``NotImplementedError``."""
        raise NotImplementedError(
            "vila_hd answers one message at a time: use tasks with output_type generate_until, not "
            "generate_until_multi_round"
        )


@contextmanager
def _naming(requests: Sequence[Request]) -> Iterator[None]:
    """Make an error of the block say which documents it is about."""
    names = [f"task {task}, split {split}, document {document}" for *_, document, task, split in requests]
    try:
        yield
    except PromptError as error:
        raise VilaHDError(f"{names[error.number]}: {error}") from error
    except VilaHDError as error:
        raise VilaHDError(f"{'; '.join(names)}: {error}") from error
    except Exception as error:
        error.add_note(f"while answering {'; '.join(names)}")
        raise


def _device_of_process(device: str | None) -> str | None:
    """The device that ``device`` means in this process of several."""
    local_rank = os.environ.get("LOCAL_RANK")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and local_rank is not None and device in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{local_rank}"
    return device


def _read_text(value: str | None) -> str | None:
    """A text, or the content of the file that it names."""
    if value and len(value) < 4096 and os.path.isfile(value):
        with open(value, encoding="utf-8") as file:
            return file.read().strip()
    return value


@cache
def _adapter() -> type:
    purpose = "lmms-eval --model vila_hd"
    base = import_optional("lmms_eval.api.model", extra="lmms-eval", purpose=purpose).lmms
    return type("VilaHD", (Adapter, base), {"__module__": __name__, "__doc__": Adapter.__doc__})


def __getattr__(name: str) -> Any:
    if name != "VilaHD":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _adapter()
