"""The Python API of VILA scripts on top of our models: ``import llava_compat.api as llava``.

::

    model = llava.load("nvidia/VILA-HD-8B-PS3-1.5K-SigLIP")
    model.num_look_close = 2
    print(model.generate_content([llava.Image("street.jpg"), "What does the sign say?"]))

What scripts set on a model is read, checked and turned into ``HighResOptions`` when a question is asked.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList

import vila_hd
from vila_hd.errors import VilaHDError
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.options import HighResOptions
from vila_hd.processing_vila_hd import VilaHDProcessor, add_pictures_to_template
from vila_hd.ps3.plans import PassPlan, Rounding
from vila_hd.ps3.regions import Regions
from vila_hd.two_step import Prefill

from . import conversation
from .checkpoint import make_generation_config
from .checkpoints import load_checkpoint
from .config_map import write_config
from .conversation import Conversation, conv_templates, template_for_path
from .dynamic_aspect import Size, plan_by_sizes
from .first_turn import first_turn_ends
from .generation_settings import complete_config
from .look_attributes import LookAttributes
from .look_settings import LookSettings
from .looks import SelectionMaps, read_regions, selection_of
from .media import File, Image, Media, Part, Video, read_prompt
from .model_views import VisionTower, add_token_names
from .response_format import JsonSchemaResponseFormat, ResponseFormat, make_processor
from .tokenizer_files import find_stop_ids

__all__ = [
    "File",
    "Image",
    "JsonSchemaResponseFormat",
    "Media",
    "ResponseFormat",
    "Video",
    "VilaModel",
    "load",
]

Answer = str | tuple[str, SelectionMaps | None, SelectionMaps | None]
"""What ``generate_content`` returns."""


def load(
    path: str | Path,
    model_base: str | Path | None = None,
    devices: Sequence[int] | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    local_files_only: bool = False,
    budget_rounding: Rounding | None = None,
    num_attention_heads: int | None = None,
) -> "VilaModel":
    """A model in the shape of VILA scripts.

    Args:
        path: published or our own folder, hub id, or ``nano``; with ``model_base`` a folder of LoRA weights.
        model_base: folder or hub id of the model that the LoRA weights of ``path`` change.
        devices: number of the GPU, as a list of one.
        dtype: as for ``vila_hd.load``.
        device: as for ``vila_hd.load``; instead of ``devices``.
        attn_implementation: as for ``vila_hd.load``.
        revision: as for ``vila_hd.load``.
        local_files_only: as for ``vila_hd.load``.
        budget_rounding: as for ``llava_compat.load_checkpoint``; for published folders only, as is the next.
        num_attention_heads: as for ``llava_compat.load_checkpoint``.

    Raises:
        VilaHDError: the model cannot be loaded, or an option has no meaning.
    """
    common: dict[str, Any] = {
        "dtype": dtype,
        "device": _device(devices, device),
        "attn_implementation": attn_implementation,
        "revision": revision,
        "local_files_only": local_files_only,
    }
    published: dict[str, Any] = {
        "budget_rounding": budget_rounding,
        "num_attention_heads": num_attention_heads,
    }
    if model_base is not None or any(value is not None for value in published.values()):
        model, processor = load_checkpoint(path, base=model_base, **common, **published)
    else:
        model, processor = vila_hd.load(path, **common)
    return VilaModel(model, processor, template=template_for_path(str(path)))


def _device(devices: Sequence[int] | None, device: str | torch.device | None) -> str | torch.device | None:
    if devices is None:
        return device
    numbers = list(devices)
    if device is not None:
        raise VilaHDError(f"devices={numbers} and device={str(device)!r}: give one of them")
    if len(numbers) != 1:
        raise VilaHDError(f"devices={numbers}: a model runs on one GPU; give one number, such as [0]")
    return f"cuda:{numbers[0]}"


@dataclass(frozen=True)
class _Reading:
    """The template in force and what follows from it."""

    processor: VilaHDProcessor
    prompt_end_ids: list[int]
    stop_ids: list[int]


class VilaModel(LookAttributes):
    """A loaded model with the methods and attributes that VILA scripts use. Build it with ``load``.

    Attributes:
        model: our model underneath.
        processor: its processor.
        config: the published config.json as attributes; of those that scripts change, ``num_video_frames``
            and ``fps`` are read.
        tokenizer: the language model's, with ``media_tokens``, ``media_token_ids``, ``stop_tokens``,
            ``stop_token_ids``, ``sentinel_token`` and ``sentinel_token_id``.
        conversation: template of the prompts. ``conversation.default_conversation`` takes its place once a
            script has assigned to that.
        num_look_close: see ``LookSettings``, as are the next.
        num_token_look_close: see there.
        look_close_mode: see there.
        max_select_num_each_scale: see there.
        smooth_selection_prob: see there.
        vision_tower: the tower as scripts reach into it.
    """

    def __init__(
        self, model: VilaHDForConditionalGeneration, processor: VilaHDProcessor, *, template: str = "auto"
    ) -> None:
        """Take over a model that is in memory already.

        Args:
            model: ours; its ``generation_config`` loses its length, which is worked out per call.
            processor: its processor.
            template: name of a template of ``conv_templates``.
        """
        self.model, self.processor = model, processor
        # transformers warns when it finds a second length there.
        model.generation_config.max_length = None
        pixels = processor.image_processor
        self.config = SimpleNamespace(
            **write_config(model.config, processor.image_end_text, pixels.resize_mode, pixels.interpolation)
        )
        self._image_aspect_ratio = self.config.image_aspect_ratio
        self.conversation: Conversation = conv_templates[template].copy()
        self.start_looks(LookSettings.from_config(vars(self.config)))
        self.vision_tower = VisionTower(self)
        self._readings: dict[str | None, _Reading] = {}
        self.tokenizer = processor.tokenizer
        add_token_names(self.tokenizer, self._reading().stop_ids)

    # ------------------------------------------------------------ what scripts read and set

    @property
    def default_generation_config(self) -> GenerationConfig:
        """How answers are made when a call does not say: greedily, to a stop token or the context's end.

        A new object every time, for scripts to change.
        """
        return make_generation_config(self.tokenizer, self._reading().stop_ids)

    @property
    def llm(self) -> nn.Module:
        """The language model without its head."""
        return cast(nn.Module, self.model.model.language_model)

    @property
    def mm_projector(self) -> nn.Module:
        """The projector."""
        return self.model.model.projector

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return cast(torch.device, self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return cast(torch.dtype, self.model.dtype)

    def get_llm(self) -> nn.Module:
        """``llm``"""
        return self.llm

    def get_vision_tower(self) -> "VisionTower":
        """``vision_tower``"""
        return self.vision_tower

    def get_mm_projector(self) -> nn.Module:
        """``mm_projector``"""
        return self.mm_projector

    def get_top_down_prompt_head(self) -> nn.Module | None:
        """What turns the question into the tower's prompt; None: the model has none."""
        return getattr(self.mm_projector, "top_down_prompt_head", None)

    def eval(self) -> "VilaModel":
        """Itself: a loaded model is in evaluation mode."""
        self.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> "VilaModel":
        """Itself, moved; arguments as for ``torch.nn.Module.to``."""
        self.model.to(*args, **kwargs)
        return self

    # ------------------------------------------------------------ answers

    @torch.no_grad()
    def generate_content(
        self,
        prompt: Part | Sequence[Part],
        generation_config: GenerationConfig | None = None,
        response_format: object = None,
        return_selection_probs: bool = False,
        smooth_selection_prob: bool = False,
        gt_selection_map: Tensor | np.ndarray | None = None,
        original_image_sizes: Sequence[Size] | None = None,
    ) -> Answer:
        """The answer to one prompt.

        Args:
            prompt: a text, or a list of texts, ``Image``, ``Video`` and PIL pictures.
            generation_config: how to answer; None: ``default_generation_config``. Without a length, answers
                go on to the end of the context.
            response_format: ``{"type": "json_object"}``, ``{"type": "json_schema", "json_schema": {"schema":
                ...}}`` or a ``ResponseFormat``; needs the extra ``json``.
            return_selection_probs: also return what was looked at.
            smooth_selection_prob: see ``LookSettings``; for this call.
            gt_selection_map: ``(pictures, height, width)``, or ``(height, width)`` for one picture; positive
                where the model must look.
            original_image_sizes: (height, width) of each picture, None where it is not known; small ones are
                hardly looked at on the largest scale where ``config.ps3_dynamic_aspect_ratio`` is set.

        Returns:
            The text, stripped. With ``return_selection_probs`` the text, the chosen patches (0 or 1) and
            their probabilities, both as ``SelectionMaps`` for any number of pictures, or None where nothing
            was chosen (no picture, or no look at high resolution).

        Raises:
            VilaHDError: a file, an attribute or an option that cannot be used; says what to do.
        """
        read = read_prompt(prompt, num_video_frames=self.config.num_video_frames, fps=self.config.fps or 0)
        self._check_config()
        processor = self._reading().processor
        message = {"role": "user", "content": read.content}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        ids = processor.encode(text, add_special_tokens=False)
        pixels: list[Tensor] = []
        if read.pictures:
            pixels = list(processor.image_processor(read.pictures, return_tensors=None)["pixel_values"])
        options = self._options(smooth_selection_prob)
        plans = self._plans(pixels, original_image_sizes)
        regions = read_regions(gt_selection_map, len(pixels))
        new, prefill = self._answer(
            ids, pixels, options, regions, generation_config, response_format, plans=plans
        )
        answer = self.tokenizer.decode(new, skip_special_tokens=True).strip()
        if not return_selection_probs:
            return answer
        return (answer, *selection_of(prefill, regions, smooth=options.smooth))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        media: dict[str, Sequence[Tensor]] | None = None,
        media_config: dict[str, Any] | None = None,
        *,
        generation_config: GenerationConfig | None = None,
    ) -> Tensor:
        """``(1, new)`` ids that answer one prompt given as ids.

        Args:
            input_ids: ``(1, T)`` or ``(T,)`` with one ``<image>`` id per picture.
            media: ``{"image": [pixels, ...]}``: ``(3, rows, columns)`` each, as the image processor of
                ``vision_tower`` makes them.
            media_config: may hold ``{"image": {"original_image_sizes": [...]}}``; see ``generate_content``.
            generation_config: see ``generate_content``.

        Raises:
            VilaHDError: more than one prompt, or placeholders and pictures differ in number.
        """
        rows = input_ids.view(1, -1) if input_ids.ndim == 1 else input_ids
        if len(rows) != 1:
            raise VilaHDError(
                f"input_ids of {len(rows)} prompts: give one; vila_hd's model.generate takes batches"
            )
        pixels = list((media or {}).get("image", ()))
        sizes = ((media_config or {}).get("image") or {}).get("original_image_sizes")
        options, plans = self._options(False), self._plans(pixels, sizes)
        ids, _ = self.processor.expand_placeholders(rows[0].tolist())
        return self._answer(ids, pixels, options, None, generation_config, None, plans=plans)[0][None]

    def _answer(
        self,
        ids: Sequence[int],
        pixels: list[Tensor],
        options: HighResOptions,
        regions: Regions | None,
        config: GenerationConfig | None,
        response_format: object,
        *,
        plans: Sequence[PassPlan] | None = None,
    ) -> tuple[Tensor, Prefill | None]:
        """``(new ids, what was looked at)``; None without pictures."""
        reading = self._reading()
        json = make_processor(response_format, self.tokenizer, reading.stop_ids)
        extra = {} if json is None else {"logits_processor": LogitsProcessorList([json])}
        input_ids = torch.tensor([list(ids)], device=self.device)
        if not pixels:
            config = self._complete(config, len(ids))
            new = self.model.generate(input_ids, generation_config=config, **extra)
            return new[0, len(ids) :], None
        prefill = self.model.prefill(
            input_ids,
            None,
            pixels,
            high_res=options,
            regions=regions,
            plans=plans,
            prompt_positions=first_turn_ends(input_ids, torch.ones_like(input_ids), reading.prompt_end_ids),
        )
        config = self._complete(config, prefill.input_ids.shape[1])
        new = self.model.generate_from(prefill, input_ids, generation_config=config, **extra)
        return cast(Tensor, new)[0, len(ids) :], prefill

    def _reading(self) -> _Reading:
        assigned = conversation.default_conversation
        chosen = self.conversation if assigned is conv_templates["auto"] else assigned
        if not isinstance(chosen, Conversation):
            raise VilaHDError(
                f"conversation {chosen!r:.80}: use an entry of conv_templates, such as conv_templates['auto']"
            )
        template = chosen.chat_template()
        if template not in self._readings:
            processor = copy.copy(self.processor)
            end_ids = list(self.model.config.prompt_end_ids)
            if template is not None:
                processor.chat_template = add_pictures_to_template(template)
                end_ids = processor.find_prompt_end_ids()
            stops = find_stop_ids(processor.tokenizer, cast(str, processor.chat_template))
            self._readings[template] = _Reading(processor, end_ids, stops)
        return self._readings[template]

    def _options(self, smooth: bool) -> HighResOptions:
        settings = self.look_settings
        if settings.look_close_mode == "after_prompt" and self.model.config.prompt_head is None:
            raise VilaHDError(
                "look_close_mode='after_prompt': the checkpoint has no prompt head; use 'after_image'"
            )
        options = settings.to_options(self.processor.patches_per_pass)
        return replace(options, smooth=True) if smooth else options

    def _plans(self, pixels: Sequence[Tensor], sizes: Sequence[Size] | None) -> list[PassPlan] | None:
        if sizes is None:
            return None
        if len(sizes) != len(pixels):
            raise VilaHDError(
                f"original_image_sizes: {len(sizes)} for {len(pixels)} picture(s): give one for each"
            )
        if not getattr(self.config, "ps3_dynamic_aspect_ratio", False):
            return None
        vision = self.model.config.vision_config
        return plan_by_sizes(
            sizes,
            [self.processor.patch_grids(*picture.shape[-2:]) for picture in pixels],
            vision.ps3_scales,
            settings=self.look_settings,
            split=self.processor.patches_per_pass,
            rounding=cast(Rounding, vision.budget_rounding),
        )

    def _check_config(self) -> None:
        if self.config.image_aspect_ratio != self._image_aspect_ratio:
            raise VilaHDError(
                f"config.image_aspect_ratio={self.config.image_aspect_ratio!r}: the checkpoint reads "
                f"pictures as {self._image_aspect_ratio!r}, which cannot be changed; leave it"
            )

    def _complete(self, config: GenerationConfig | None, prompt_tokens: int) -> GenerationConfig:
        limit = getattr(self.model.config.text_config, "max_position_embeddings", None)
        return complete_config(config, self.default_generation_config, prompt_tokens, limit)
