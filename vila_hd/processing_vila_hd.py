"""VilaHDProcessor: messages and pictures -> ids, masks and pixels; the only place that counts image
tokens."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import AutoProcessor
from transformers.processing_utils import ProcessorMixin

from .configuration_vila_hd import VilaHDConfig
from .constants import IMAGE_END_TEXT, IMAGE_TOKEN
from .errors import VilaHDError
from .images import open_image
from .options import HighResOptions
from .ps3.image_processing_ps3 import PS3ImageProcessor
from .ps3.plans import plan_passes
from .ps3.resampling import grid_of, scale_size
from .remote_code import add_remote_code
from .towers.tiling import choose_tiles

_TEMPLATE_PREFIX = (
    "{%- set ns = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is defined and message.content is not none and message.content is not string -%}"
    "{%- set part = namespace(text='') -%}"
    "{%- for item in message.content -%}"
    "{%- if item.type == 'image' -%}{%- set part.text = part.text + 'IMAGE_TOKEN' -%}"
    "{%- elif item.type == 'text' -%}{%- set part.text = part.text + item.text -%}"
    "{%- else -%}{{ raise_exception('content of type ' ~ item.type ~ ' is not read: use text and image') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set ns.messages = ns.messages + [dict(message, content=part.text)] -%}"
    "{%- else -%}"
    "{%- set ns.messages = ns.messages + [message] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = ns.messages %}"
).replace("IMAGE_TOKEN", IMAGE_TOKEN)


def add_pictures_to_template(template: str) -> str:
    """A chat template for messages with pictures, made of a language model's own template for texts.

    Content that is a list of ``{"type": "image"}`` and ``{"type": "text", "text": ...}`` becomes one string,
    in the order given, in which ``<image>`` stands for a picture; then ``template`` is applied as it is.
    """
    return template if template.startswith(_TEMPLATE_PREFIX) else _TEMPLATE_PREFIX + template


@dataclass(frozen=True)
class ImageTokenCount:
    """Visual tokens of one picture, known from its size and the options alone."""

    low_res: int
    """Low-resolution tokens; with pruning, tokens of all resolutions that reach the language model."""

    high_res: int
    """High-resolution tokens at most; 0 with pruning. Fewer reach the language model where the choice leaves
    squares of patches incomplete; exact for budget 0 and when every patch of the allowed scales is chosen."""

    end: int
    """Text tokens that close the picture."""

    @property
    def total(self) -> int:
        """Places that the picture takes in the language model's context, at most."""
        return self.low_res + self.high_res + self.end


class VilaHDProcessor(ProcessorMixin):
    """Turns text with ``<image>`` placeholders and pictures into model inputs.

    Every ``<image>`` becomes ``low_res_tokens`` placeholder ids and the ids of ``image_end_text``. This
    happens in id space, so the words around it are tokenised once and never again. High-resolution tokens are
    the model's to insert.

    Args:
        image_processor: A ``PS3ImageProcessor``.
        tokenizer: The language model's tokenizer, with ``<image>`` among its special tokens.
        low_res_tokens: Placeholder ids per picture.
        scales: Scales of the tower in pixels, low resolution first.
        patch_size: Patch side in pixels.
        downsample: Side, in patches, of the square that one visual token stands for.
        patches_per_pass: Patches that one pass may choose, per high-resolution scale; none for a tower that
            chooses nothing.
        max_tiles: Most tiles of a picture, for a tower that cuts pictures into tiles; None: it does not.
        default_budget: High-resolution patches per picture when a call does not say; None: one full pass.
        image_end_text: Text that closes the visual tokens of each picture.
        chat_template: Jinja template for messages whose content may hold pictures.
    """

    # Not keyword-only: transformers reads the first arguments' names to know what a stored processor may
    # hold.
    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        low_res_tokens: int,
        scales: Sequence[int],
        patch_size: int,
        downsample: int,
        patches_per_pass: Sequence[int],
        default_budget: int | None = None,
        image_end_text: str = IMAGE_END_TEXT,
        chat_template: str | None = None,
        max_tiles: int | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.low_res_tokens = low_res_tokens
        self.scales = tuple(scales)
        self.patch_size = patch_size
        self.downsample = downsample
        self.patches_per_pass = tuple(patches_per_pass)
        self.default_budget = default_budget
        self.max_tiles = max_tiles
        self.image_end_text = image_end_text
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.get_vocab().get(IMAGE_TOKEN)
        if self.image_token_id is None:
            raise VilaHDError(
                f"the tokenizer has no {IMAGE_TOKEN} token: add it with "
                f"tokenizer.add_special_tokens({{'additional_special_tokens': ['{IMAGE_TOKEN}']}})"
            )
        self.image_end_ids = tokenizer(image_end_text, add_special_tokens=False)["input_ids"]

    @classmethod
    def from_config(
        cls, config: VilaHDConfig, *, image_processor: Any, tokenizer: Any, chat_template: str | None
    ) -> Self:
        """The processor that belongs to a model of this configuration."""
        vision = config.vision_config
        return cls(
            image_processor,
            tokenizer,
            low_res_tokens=config.low_res_tokens,
            scales=(vision.ps3_scales[0], *config.high_scales),
            patch_size=vision.patch_size,
            downsample=config.downsample,
            patches_per_pass=vision.patches_per_pass,
            default_budget=config.default_budget,
            chat_template=chat_template,
            max_tiles=getattr(vision, "max_tiles", None),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """The processor of a folder or hub repository; arguments as in ``ProcessorMixin.from_pretrained``.

        Raises:
            VilaHDError: it has no chat template.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if processor.chat_template is None:
            raise VilaHDError(
                f"{pretrained_model_name_or_path}: no chat template; put the language model's template into "
                "chat_template.jinja there (vila_hd.add_pictures_to_template makes it read pictures), or "
                "pass "
                "chat_template="
            )
        return processor

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write the processor's files; arguments as in ``ProcessorMixin.save_pretrained``."""
        if isinstance(self.chat_template, str):
            # The tokenizer writes its own template to the same file first.
            self.tokenizer.chat_template = self.chat_template
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        add_remote_code(Path(save_directory))
        return files

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoProcessor") -> None:
        """Nothing to do: saved folders name this package instead of carrying a copy of its source."""

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        return_mm_token_type_ids: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for one text or a batch of texts.

        Args:
            images: One picture, one list for the whole batch in reading order, or one list per text. A
                picture is a PIL picture, a uint8 array or tensor, a file name, a URL or base64 text.
            text: Text with one ``<image>`` per picture.
            padding: As for tokenizers; the side is the tokenizer's.
            truncation: Never done: a cut could fall between visual tokens. With ``max_length``, too long is
                an error.
            max_length: Longest input allowed, in tokens, placeholders included.
            add_special_tokens: As for tokenizers.
            return_tensors: ``"pt"`` or None (lists).
            return_offsets_mapping: Add ``offset_mapping``: characters of ``text`` that each id stands for.
            return_mm_token_type_ids: Add ``mm_token_type_ids``: 1 at placeholders, else 0.
            **kwargs: Options of the image processor (``resize_mode``, ``image_size``); None values are
                skipped.

        Returns:
            ``input_ids`` and ``attention_mask`` (lists or ``(B, tokens)``, with a batch of one for one text);
            with pictures ``pixel_values``, uint8 ``(n, 3, rows, columns)`` or a list of ``(3, rows,
            columns)`` where shapes differ, and ``image_sizes``: (height, width) of each picture as given.

        Raises:
            VilaHDError: placeholders and pictures differ in number, the input is too long, or an unreadable
            picture.
        """
        if text is None:
            raise VilaHDError("no text: give a text with one <image> per picture")
        if return_tensors not in (None, "pt"):
            raise VilaHDError(f"return_tensors={return_tensors!r}: use 'pt' or None")
        texts = [text] if isinstance(text, str) else list(text)
        pictures = _by_text(images, len(texts))
        self._check_placeholders(texts, pictures)
        encoded = self.tokenizer(
            texts, add_special_tokens=add_special_tokens, return_offsets_mapping=return_offsets_mapping
        )
        offsets = encoded["offset_mapping"] if return_offsets_mapping else [None] * len(texts)
        expanded = [
            self.expand_placeholders(ids, offset)
            for ids, offset in zip(encoded["input_ids"], offsets, strict=True)
        ]
        self._check_length([len(ids) for ids, _ in expanded], max_length)
        data = self._pad(expanded, padding, return_tensors, max_length, return_offsets_mapping)
        if return_mm_token_type_ids:
            data["mm_token_type_ids"] = [
                [int(i == self.image_token_id) for i in ids] for ids in data["input_ids"]
            ]
        flat = [_open(picture) for group in pictures for picture in group]
        if flat:
            kwargs = {name: value for name, value in kwargs.items() if value is not None}
            kwargs.pop("return_text_replacement_offsets", None)
            data.update(self.image_processor(flat, return_tensors=return_tensors, **kwargs))
        # Pictures of different shapes stay a list, also when transformers converts the rest later.
        return BatchFeature(data, tensor_type=None, skip_tensor_conversion=["pixel_values"])

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of one text, every ``<image>`` expanded, for pictures that are known already."""
        return self.expand_placeholders(
            self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        )[0]

    def expand_placeholders(
        self, ids: Sequence[int], offsets: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids with every ``<image>`` expanded, and their offsets: copies of the placeholder's own.

        Args:
            ids: of one text, as the tokenizer gives them.
            offsets: characters that each of them stands for; None: none are returned.
        """
        block = [self.image_token_id] * self.low_res_tokens + self.image_end_ids
        all_ids: list[int] = []
        all_offsets: list[tuple[int, int]] = []
        for position, token in enumerate(ids):
            is_picture = token == self.image_token_id
            all_ids += block if is_picture else [token]
            if offsets is not None:
                all_offsets += [(offsets[position][0], offsets[position][1])] * (
                    len(block) if is_picture else 1
                )
        return all_ids, all_offsets

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Messages as text or model inputs; arguments as in ``ProcessorMixin.apply_chat_template``.

        Raises:
            VilaHDError: there is no chat template, or it fails.
        """
        if self.chat_template is None and chat_template is None:
            raise VilaHDError(
                "the processor has no chat template: pass chat_template= or set processor.chat_template"
            )
        try:
            return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)
        except TemplateError as error:
            raise VilaHDError(f"the chat template fails ({error}): mend chat_template.jinja") from error

    def count_image_tokens(
        self, sizes: Sequence[tuple[int, int]], options: HighResOptions | None = None
    ) -> list[ImageTokenCount]:
        """Visual tokens of each picture, without running a model.

        Args:
            sizes: (height, width) in pixels of each picture as opened.
            options: Choices of the call; None: the checkpoint's defaults.
        """
        options = options or HighResOptions()
        counts = []
        for height, width in sizes:
            grids = self.patch_grids(*self.image_processor.resized_size(height, width))
            chosen = self._count_patches(grids, options)
            high = sum(self._tokens_at_most(n, *grid) for n, grid in zip(chosen, grids, strict=True))
            # A budget that fills no square at all still yields one token, so that the sequence keeps its
            # form.
            filler = int(high == 0 and sum(chosen) > 0)
            low, high = self.low_res_tokens, high + filler
            if options.pruning is not None and not options.pruning.in_language_model:
                # Which ones are dropped is not known here, only how many.
                low = options.pruning.num_kept(low + high)
                high = 0
            counts.append(ImageTokenCount(low, high, len(self.image_end_ids)))
        return counts

    def _count_patches(self, grids: Sequence[tuple[int, int]], options: HighResOptions) -> list[int]:
        """Patches that will be seen of each grid."""
        budget = options.budget
        if budget == "auto" and self.default_budget is not None:
            budget = self.default_budget
        sizes = [rows * columns for rows, columns in grids]
        if budget == 0 or not self.patches_per_pass:
            return [0] * len(grids) if budget == 0 else sizes
        passes = plan_passes(
            sizes,
            options.per_scale or self.patches_per_pass,
            budget=budget,
            num_scales=None if options.max_scale is None else self.scales[1:].index(options.max_scale) + 1,
        )
        return [sum(taken) for taken in zip(*passes, strict=True)]

    def find_prompt_end_ids(self) -> list[int]:
        """Ids of what the chat template puts between the user's words and the answer, stripped of white
        space.

        Empty when the template puts nothing there, or something that is tokenised differently in its place.
        """
        words = "Where is it"
        rendered = self.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
        end = self.tokenizer(
            rendered[rendered.rindex(words) + len(words) :].strip(), add_special_tokens=False
        )
        ids, whole = end["input_ids"], self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        found = any(whole[i : i + len(ids)] == ids for i in range(len(whole) - len(ids) + 1))
        return list(ids) if found else []

    def patch_grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of patches at each high-resolution scale, or of each tile, for a picture as the
        tower sees it."""
        low, patch = self.scales[0], self.patch_size
        if self.max_tiles is not None:
            rows, columns = choose_tiles(height, width, tile=low, max_tiles=self.max_tiles)
            return [grid_of((low, low), patch)] * (rows * columns if rows * columns > 1 else 0)
        sizes = [scale_size((height, width), scale, low_scale=low, patch=patch) for scale in self.scales[1:]]
        return [grid_of(size, patch) for size in sizes]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of generated ids; arguments as in ``ProcessorMixin.post_process_image_text_to_text``."""
        return self.tokenizer.batch_decode(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything that ``__call__`` may return for a model."""
        return ["input_ids", "attention_mask", "pixel_values", "image_sizes"]

    def _tokens_at_most(self, chosen: int, rows: int, columns: int) -> int:
        cells = math.ceil(rows / self.downsample) * math.ceil(columns / self.downsample)
        if chosen >= rows * columns:
            return cells
        # Cells at the edge of an odd grid hold fewer patches and fill first.
        sides = [[min(self.downsample, n - i) for i in range(0, n, self.downsample)] for n in (rows, columns)]
        filled = 0
        for patches in sorted(height * width for height in sides[0] for width in sides[1]):
            if chosen < patches:
                break
            chosen, filled = chosen - patches, filled + 1
        return filled

    def _pad(
        self,
        expanded: list[tuple[list[int], list[tuple[int, int]]]],
        padding: bool | str,
        return_tensors: str | None,
        max_length: int | None,
        with_offsets: bool,
    ) -> dict[str, Any]:
        ids = [row for row, _ in expanded]
        batch = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        if not padding and return_tensors is not None and len({len(row) for row in ids}) > 1:
            raise VilaHDError(
                f"texts of {[len(row) for row in ids]} tokens make no tensor: pass padding=True"
            )
        padded = dict(
            self.tokenizer.pad(batch, padding=padding, max_length=max_length, return_tensors=return_tensors)
        )
        if with_offsets:
            length = max(len(row) for row in padded["input_ids"])
            left = self.tokenizer.padding_side == "left"
            padded["offset_mapping"] = [
                [(0, 0)] * (length - len(row)) * left + row + [(0, 0)] * (length - len(row)) * (not left)
                if padding
                else row
                for _, row in expanded
            ]
        return padded

    def _check_placeholders(self, texts: list[str], pictures: list[list[Any]]) -> None:
        if len(pictures) == 1 and len(texts) > 1:
            groups = [("the texts together have", sum(t.count(IMAGE_TOKEN) for t in texts), len(pictures[0]))]
        else:
            groups = [
                (f"text {i} has", t.count(IMAGE_TOKEN), len(group))
                for i, (t, group) in enumerate(zip(texts, pictures, strict=True))
            ]
        for where, expected, got in groups:
            if expected != got:
                raise VilaHDError(
                    f"{where} {expected} {IMAGE_TOKEN} placeholder(s) but there are {got} picture(s): "
                    "put one placeholder (or one image item of a message) per picture"
                )

    def _check_length(self, lengths: list[int], max_length: int | None) -> None:
        if max_length is not None and max(lengths) > max_length:
            raise VilaHDError(
                f"input of {max(lengths)} tokens, but max_length={max_length}: shorten the text, give fewer "
                "pictures "
                "or raise max_length (nothing is cut, a cut could fall between visual tokens)"
            )


def _by_text(images: Any, num_texts: int) -> list[list[Any]]:
    """Pictures per text; one single list when they come as one list for several texts."""
    if images is None:
        return [[] for _ in range(num_texts)]
    if not isinstance(images, list | tuple):
        return [[images]]
    if images and all(isinstance(group, list | tuple) for group in images):
        if len(images) != num_texts:
            raise VilaHDError(
                f"{len(images)} lists of pictures for {num_texts} text(s): give one list per text"
            )
        return [list(group) for group in images]
    return [list(images)] if images else [[] for _ in range(num_texts)]


def _open(picture: Any) -> Any:
    if isinstance(picture, str):
        is_file = not picture.startswith(("http://", "https://", "data:")) and len(picture) < 4096
        if is_file:
            return open_image(picture)
        from transformers.image_utils import load_image

        return open_image(load_image(picture))
    if isinstance(picture, Image.Image | bytes | Path):
        return open_image(picture)
    if isinstance(picture, torch.Tensor) or hasattr(picture, "__array__"):
        return picture
    raise VilaHDError(
        f"picture of type {type(picture).__name__}: use a PIL picture, file name, array or tensor"
    )


AutoProcessor.register(VilaHDConfig, VilaHDProcessor, exist_ok=True)
AutoImageProcessor.register(VilaHDConfig, image_processor_classes={"pil": PS3ImageProcessor}, exist_ok=True)
