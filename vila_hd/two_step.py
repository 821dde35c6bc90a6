"""The two-step answer: read the question on low-resolution tokens, choose, look closer, then answer.

``generate`` does this before the token loop of transformers starts: it fills a key/value cache with all but
the last position of the fused prompt, and transformers goes on from there. Keys and values of the prompt's
start, which both steps share, are computed once.

Shape suffixes used in this file:
    B = rows of the batch, T = columns of ``input_ids``, U = columns with high-resolution tokens, L = looks.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .errors import VilaHDError
from .fusion import Layout, Runs, count_shared, lay_out
from .kept_looks import KeptLooks
from .options import HighResOptions
from .pruning.fastv import FastVCache
from .pruning.looks import Seen, layers_of, prune_looks
from .ps3.outputs import LowRes
from .ps3.plans import PassPlan
from .ps3.regions import Regions
from .ps3.selection import PatchSelection, join_choices

if TYPE_CHECKING:
    from .modeling_vila_hd import VilaHDModel


class Phases:
    """Seconds per phase of an answer."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to phase ``name``."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass
class Prefill:
    """The prompt, ready for the token loop: everything but its last position is in the cache."""

    input_ids: Tensor
    """``(B, U)``: the fused prompt in ids; the placeholder's id at visual tokens and padding."""

    attention_mask: Tensor
    """``(B, U)``"""

    cache: Cache
    """Keys and values of ``U - 1`` positions."""

    low_res: LowRes
    selection: PatchSelection | None
    """Which patches each look chose; None for budget 0."""

    scores: Tensor | None
    """``(L, g, g)``"""

    counts: tuple[int, ...]
    """High-resolution tokens per look that were not pruned."""

    low_counts: tuple[int, ...]
    """Low-resolution tokens per look that were not pruned."""

    kept: KeptLooks | None
    """The same patches, encoded; None for budget 0."""

    reused: int
    """Columns of the cache that both steps shared; 0: nothing was shared."""

    phases: Phases = field(default_factory=Phases)


class TwoStepGenerationMixin(GenerationMixin):
    """``generate`` for prompts with pictures."""

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        image_sizes: Tensor | None = None,
        high_res: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        low_res: LowRes | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Answer prompts.

        Args:
            inputs: ``input_ids`` as the first argument.
            generation_config: see ``GenerationMixin.generate``.
            input_ids: ``(B, T)`` with one run of placeholders per look, padded on any side.
            attention_mask: ``(B, T)``, 0 at padding; None: no padding.
            pixel_values: the pictures; see ``VilaHDModel.forward``.
            image_sizes: (height, width) of each picture as opened; needed for ``high_res.regions``.
            high_res: how closely to look; None: the checkpoint's defaults.
            regions: one entry per look; patches in them are chosen first. For maps of any kind; boxes in
                pixels go into ``high_res``.
            look_index: ``(L,)`` the picture that each run of placeholders shows; None: run i shows picture i.
            prompt_positions: ``(B,)`` columns at which the questions end; None: found by
                ``config.prompt_end_ids``.
            low_res: low-resolution pass over ``pixel_values`` of an earlier answer, to save doing it again.
            streamer: receives ``input_ids`` first, then new ids, as in transformers.
            **kwargs: everything that ``GenerationMixin.generate`` takes. ``max_length`` and ``min_length``
                count the columns of ``input_ids``, not visual tokens that the model adds.

        Returns:
            ``(B, T + new)``: ``input_ids`` and the new ids; or transformers' output object with these
            ``sequences``.

        Raises:
            VilaHDError: placeholders and pictures do not fit, or an option does not go with pictures.
        """
        input_ids = inputs if input_ids is None else input_ids
        if pixel_values is None:
            if high_res is not None and high_res.regions:
                raise VilaHDError("regions without pictures: pass pixel_values")
            given = {
                "generation_config": generation_config,
                "attention_mask": attention_mask,
                "streamer": streamer,
            }
            return super().generate(input_ids, **given, **kwargs)
        if input_ids is None:
            raise VilaHDError("pictures without input_ids: pass both, made by the model's own processor")
        prefill = self.prefill(
            input_ids,
            attention_mask,
            pixel_values,
            image_sizes=image_sizes,
            high_res=high_res,
            regions=regions,
            look_index=look_index,
            prompt_positions=prompt_positions,
            low_res=low_res,
        )
        return self.generate_from(
            prefill, input_ids, generation_config=generation_config, streamer=streamer, **kwargs
        )

    @torch.no_grad()
    def prefill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor | Sequence[Tensor],
        *,
        image_sizes: Tensor | None = None,
        high_res: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        low_res: LowRes | None = None,
        plans: Sequence[PassPlan] | None = None,
        kept: KeptLooks | None = None,
        phases: Phases | None = None,
    ) -> Prefill:
        """Look, choose, look closer, and read the fused prompt up to its last position; see ``generate``.

        Args:
            input_ids: see ``generate``, as are all arguments not named here.
            attention_mask: see there.
            pixel_values: see there.
            image_sizes: see there.
            high_res: see there.
            regions: see there.
            look_index: see there.
            prompt_positions: see there.
            low_res: see there.
            plans: per look, patches of every pass and scale, instead of the budget of ``high_res``.
            kept: of an earlier prompt about the same pictures: its patches are kept, and others are added.
            phases: adds up the seconds of this call; None: a new one.
        """
        model: VilaHDModel = self.model
        options = model.resolve_options(high_res)
        embedding = model.get_input_embeddings()
        device = model.embedding_device
        input_ids = input_ids.to(device)
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(device)
        mask_BT = mask_BT.bool()
        if not bool(mask_BT.any(1).all()):
            raise VilaHDError("a row of the batch is empty: every row needs at least one token")
        runs = model.check_runs(input_ids, len(pixel_values), look_index)
        if options.regions:
            if regions is not None:
                raise VilaHDError("regions given twice: as HighResOptions(regions=...) and as regions=")
            regions = regions_from_options(options, image_sizes, look_index, len(pixel_values))
        phases = phases or Phases(device)
        if not model.config.vision_config.patches_per_pass:
            kept = None  # a tower that does not choose sees everything again
        close = options.budget != 0 or kept is not None
        with phases("low_res"):
            layers = layers_of(model, options.pruning)
            # Pruning may need a block that an earlier answer did not.
            low = low_res if low_res is not None and low_res.layers[: len(layers)] == layers else None
            low = low or self._look_at_low_res(pixel_values, layers, keep_cache=close)
            low_PND = model.projector.project_low_res(low.features[0])
            embeds_BTD = model.insert_low_res(embedding(input_ids), runs, look_index, low_PND)
        cache = DynamicCache(config=model.config.text_config)
        scores, selection, high, columns = None, None, None, 0
        if close:
            prompt = None
            if model.wants_prompt(options):
                with phases("language"):
                    positions_B = model.prompt_positions(input_ids, mask_BT, prompt_positions)
                    rows_B = torch.arange(len(positions_B), device=device)
                    states_BD, columns = model.read_question(embeds_BTD, mask_BT, rows_B, positions_B, cache)
                    prompt = model.projector.prompt(states_BD[runs.row]).to(low.features[0].device)
            tower = model.vision_tower
            index = _owners(look_index, runs, low)
            with phases("choose"):
                scores = tower.score(low, prompt, look_index=index, random=options.guided_by == "random")
                selection = tower.select(
                    low,
                    scores,
                    options=options,
                    regions=regions,
                    look_index=index,
                    plans=plans,
                    taken=None if kept is None else kept.selection,
                )
            with phases("high_res"):
                if kept is not None and kept.layers != layers:
                    selection, kept = join_choices(kept.selection, selection), None
                high = tower.encode_high_res(low, selection, layers=layers, look_index=index)
                kept = KeptLooks(selection, high, layers) if kept is None else kept.add(selection, high)
                selection, high = kept.selection, kept.high
        with phases("high_res"):
            high_ND, counts = model.project_high_res(
                low_PND, high, selection, look_index if len(runs) else None
            )
            low_counts = (low_PND.shape[1],) * len(counts)
            pruning = options.pruning
            if pruning is not None and not pruning.in_language_model:
                seen = Seen(low, low_PND, high, selection, high_ND, counts, look_index)
                pruned = prune_looks(model, pruning, seen)
                embeds_BTD = model.insert_low_res(embeds_BTD, runs, None, pruned.low)
                mask_BT = pruned.mask(mask_BT, runs)
                high_ND, counts = pruned.high, pruned.counts
                low_counts = tuple(pruned.low_kept.sum(1).tolist())
        with phases("language"):
            shared_B, reused = None, 0
            if pruning is None:
                shared_B = _shared_in_cache(cache, columns, mask_BT, runs, counts)
            layout = lay_out(mask_BT, runs, counts, padding_side="left", shared_B=shared_B)
            fused_BUD = layout.place(embeds_BTD, high_ND)
            if shared_B is not None:
                reused = _prefix_columns(mask_BT, shared_B)
                cache.crop(reused - columns)
            else:
                cache = DynamicCache(config=model.config.text_config)
            if pruning is not None and pruning.in_language_model:
                cache = FastVCache(model.language_model, pruning)
                low_counts, counts = cache.read_prompt(fused_BUD, layout, runs, counts)
            else:
                self._read_rest(layout, fused_BUD, cache, reused)
        image_id = model.config.image_token_id
        ids_BU = layout.place_ids(input_ids, image_id)
        if bool((ids_BU[:, -1] == image_id).any()):
            raise VilaHDError(
                "a prompt ends with a picture: put a question, or the template's answer header, after it"
            )
        return Prefill(
            input_ids=ids_BU,
            attention_mask=layout.mask.long(),
            cache=cache,
            low_res=low,
            selection=selection,
            scores=scores,
            counts=counts,
            low_counts=low_counts,
            kept=kept,
            reused=reused,
            phases=phases,
        )

    @torch.no_grad()
    def generate_from(
        self,
        prefill: Prefill,
        input_ids: Tensor,
        *,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Answer from a prefilled prompt; uses up ``prefill.cache``. See ``generate``."""
        setting = _Settings(kwargs, generation_config, self.generation_config)
        _check_cache_settings(setting)
        config, kwargs = _count_own_length(setting, generation_config, kwargs, input_ids.shape[1])
        copies = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
        if copies > 1:
            prefill.cache.batch_repeat_interleave(copies)
        outputs = super().generate(
            prefill.input_ids,
            generation_config=config,
            attention_mask=prefill.attention_mask,
            past_key_values=prefill.cache,
            streamer=None if streamer is None else _PromptStreamer(streamer, input_ids),
            **kwargs,
        )
        if isinstance(outputs, Tensor):
            return _with_own_prompt(outputs, input_ids, prefill.input_ids.shape[1])
        outputs.sequences = _with_own_prompt(outputs.sequences, input_ids, prefill.input_ids.shape[1])
        return outputs

    def _look_at_low_res(
        self, pixel_values: Tensor | Sequence[Tensor], layers: Sequence[int], *, keep_cache: bool
    ) -> LowRes:
        model: VilaHDModel = self.model
        device = model.vision_tower.device
        pictures = [picture.to(device) for picture in pixel_values]
        return model.vision_tower.encode_low_res(
            pictures, layers=layers, keep_cache=keep_cache, taps=keep_cache
        )

    def _read_rest(self, layout: Layout, fused_BUD: Tensor, cache: Cache, done: int) -> None:
        """Put all but the last position of the fused prompt into the cache, which holds ``done`` columns of
        it."""
        last = fused_BUD.shape[1] - 1
        if last > done:
            self.model.run_language_model(
                fused_BUD[:, done:last],
                layout.mask[:, :last].long(),
                layout.positions[:, done:last],
                cache,
                True,
            )


class _PromptStreamer(BaseStreamer):
    """Shows a streamer the caller's own prompt instead of the fused one."""

    def __init__(self, streamer: BaseStreamer, input_ids: Tensor) -> None:
        self._streamer = streamer
        self._prompt: Tensor | None = input_ids.cpu()

    def put(self, value: Tensor) -> None:
        """Hand on ids; the first ones are the prompt."""
        prompt, self._prompt = self._prompt, None
        self._streamer.put(value if prompt is None else prompt)

    def end(self) -> None:
        """Hand on the end."""
        self._streamer.end()


class _Settings:
    """A generation setting as transformers will resolve it: call, then given config, then the model's own."""

    def __init__(
        self, kwargs: dict[str, Any], given: GenerationConfig | None, own: GenerationConfig | None
    ) -> None:
        self._sources = [kwargs, *(vars(config) for config in (given, own) if config is not None)]

    def __call__(self, name: str) -> Any:
        return next((source[name] for source in self._sources if source.get(name) is not None), None)


def regions_from_options(
    options: HighResOptions, image_sizes: Tensor | None, look_index: Tensor | None, num_pictures: int
) -> Regions:
    """Boxes in pixels of the original pictures -> regions per look.

    Raises:
        VilaHDError: sizes are missing, numbers differ, or a box leaves its picture.
    """
    if image_sizes is None:
        raise VilaHDError(
            "regions are in pixels of the original pictures: pass the processor's image_sizes, too"
        )
    boxes = region_boxes(options, torch.as_tensor(image_sizes).tolist(), num_pictures)
    index = range(num_pictures) if look_index is None else look_index.tolist()
    return Regions.from_boxes([boxes[i] for i in index])


def region_boxes(
    options: HighResOptions, sizes: Sequence[tuple[int, int]], num_pictures: int
) -> list[Tensor]:
    """Per picture ``(n, 4)``: the boxes of ``options`` as shares of the picture's width and height.

    Args:
        options: with boxes in pixels.
        sizes: (height, width) of each picture.
        num_pictures: how many there are.

    Raises:
        VilaHDError: numbers differ, or a box leaves its picture.
    """
    if len(options.regions) != num_pictures:
        raise VilaHDError(
            f"{len(options.regions)} list(s) of regions for {num_pictures} picture(s): give one per picture"
        )
    boxes = []
    for picture_boxes, (height, width) in zip(options.regions, sizes, strict=True):
        for box in picture_boxes:
            if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
                raise VilaHDError(
                    f"region {box} leaves the picture of {width}x{height} pixels: keep it inside"
                )
        size = torch.tensor([width, height, width, height], dtype=torch.float64)
        boxes.append(torch.tensor(picture_boxes, dtype=torch.float64).view(-1, 4) / size)
    return boxes


def _owners(look_index: Tensor | None, runs: Runs, low: LowRes) -> Tensor | None:
    """``look_index`` on the tower's device."""
    return None if look_index is None else look_index.to(low.features[0].device)


def _shared_in_cache(
    cache: Cache, columns: int, mask_BT: Tensor, runs: Runs, counts: Sequence[int]
) -> Tensor | None:
    """``(B,)`` tokens of each row whose keys and values can be kept; None: the cache is empty or cannot be
    cut."""
    # Sliding windows and states cannot be cut back, and windows would count the padding in the middle.
    if not columns or not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    return count_shared(mask_BT, runs, counts, columns)


def _prefix_columns(mask_BT: Tensor, shared_B: Tensor) -> int:
    """Columns up to the last token that is shared in any row."""
    rank_BT = mask_BT.long().cumsum(1) - 1
    columns_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    return int(torch.where(mask_BT & (rank_BT < shared_B[:, None]), columns_T, 0).max())


def _check_cache_settings(setting: _Settings) -> None:
    if setting("use_cache") is False:
        raise VilaHDError("use_cache=False: prompts with pictures need the cache; leave it out")
    kind = setting("cache_implementation")
    if kind not in (None, "dynamic"):
        raise VilaHDError(f"cache_implementation={kind!r}: prompts with pictures use 'dynamic'; leave it out")
    for name in ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"):
        if setting(name) is not None:
            raise VilaHDError(f"{name}: assisted generation reads no pictures; leave it out")
    if setting("past_key_values") is not None:
        raise VilaHDError(
            "past_key_values with pixel_values: pass low_res of the last answer to save its low-res pass"
        )


def _count_own_length(
    setting: _Settings, config: GenerationConfig | None, kwargs: dict[str, Any], columns: int
) -> tuple[GenerationConfig | None, dict[str, Any]]:
    """Turn ``max_length`` and ``min_length``, which count ``input_ids``, into numbers of new tokens."""
    kwargs = dict(kwargs)
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = setting(total)
        kwargs.pop(total, None)
        if not length:
            continue
        if setting(new) is None:
            if total == "max_length" and length <= columns:
                raise VilaHDError(
                    f"max_length={length} but the prompt has {columns} tokens: use max_new_tokens"
                )
            kwargs[new] = max(length - columns, 0)
        if config is not None and getattr(config, total) is not None:
            config = GenerationConfig.from_dict({**config.to_dict(), total: None})
    return config, kwargs


def _with_own_prompt(sequences: Tensor, input_ids: Tensor, fused_columns: int) -> Tensor:
    """``(rows, T + new)``: the caller's prompt and the new ids."""
    prompts = input_ids.to(sequences.device).repeat_interleave(len(sequences) // len(input_ids), dim=0)
    return torch.cat([prompts, sequences[:, fused_columns:]], dim=1)
