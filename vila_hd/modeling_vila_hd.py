"""VilaHDModel (fusion) and VilaHDForConditionalGeneration (head, loss).

Shape suffixes used in this file:
    B = rows of the batch, T = columns of ``input_ids``, U = columns with high-resolution tokens, P =
    pictures, L = looks (uses of a picture, one per run of placeholders), N = high-resolution tokens of all
    looks together, g = side of the low-resolution grid, D = language-model width, C = tower width.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForImageTextToText

from .configuration_vila_hd import VilaHDConfig
from .constants import IGNORE_INDEX
from .errors import VilaHDError
from .fusion import (
    Layout,
    Runs,
    check_look_positions,
    check_no_placeholders,
    check_prompt_positions,
    find_prompt_positions,
    find_runs,
    lay_out,
)
from .language_passes import LanguagePassesMixin
from .loss import next_token_loss, scale_logits, supervised_loss
from .options import HighResOptions, Pruning
from .outputs import VilaHDModelOutput, VilaHDOutput, VisualTokens
from .pretrained import VilaHDPreTrainedModel
from .projector import VilaHDProjector, cells_of, count_tokens, fill_empty_looks
from .pruning.looks import Seen, layers_of, prune_looks
from .ps3.outputs import HighRes, LowRes
from .ps3.regions import Regions
from .ps3.selection import PatchSelection
from .towers.modeling_towers import build_tower
from .two_step import TwoStepGenerationMixin, regions_from_options

Pixels = Tensor | Sequence[Tensor]
"""``(P, 3, rows, columns)`` or one ``(3, rows, columns)`` per picture; uint8 RGB, or floats normalised
already."""


class VilaHDModel(VilaHDPreTrainedModel, LanguagePassesMixin):
    """The tower, the projector and the language model without its head."""

    def __init__(self, config: VilaHDConfig) -> None:
        super().__init__(config)
        self.vision_tower = build_tower(config.vision_config)
        self.projector = VilaHDProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self._takes_positions = "position_ids" in inspect.signature(self.language_model.forward).parameters
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    @property
    def embedding_device(self) -> torch.device:
        """Where ``input_ids`` belong."""
        return next(self.get_input_embeddings().parameters()).device

    def resolve_options(self, options: HighResOptions | None) -> HighResOptions:
        """``options`` with the checkpoint's defaults filled in.

        Raises:
            VilaHDError: the tower cannot do it, or the question shall guide the choice, but there is no
                prompt head.
        """
        config = self.config
        if options is None:
            options = HighResOptions(guided_by=config.default_guide)
        if options.pruning is None and config.default_pruning is not None:
            options = replace(options, pruning=Pruning.parse(config.default_pruning))
        options = config.vision_config.fit_options(options)
        if options.guided_by == "prompt" and config.prompt_head is None:
            raise VilaHDError("guided_by='prompt': this model has no prompt head; use guided_by='saliency'")
        if options.budget == "auto" and config.default_budget is not None:
            options = replace(options, budget=config.default_budget)
        return options

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Pixels | None = None,
        *,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        high_res: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        saliency: bool = False,
        scores_only: bool = False,
        always_look: bool = False,
        prompt_gradient: bool = False,
        look_positions: Tensor | None = None,
        packing: bool = False,
        **kwargs: Any,
    ) -> VilaHDModelOutput:
        """Run everything but the head.

        Args:
            input_ids: ``(B, T)`` with one run of placeholders per look.
            attention_mask: ``(B, T)``, 0 at padding; None: no padding.
            pixel_values: the pictures; None: text only, or a continuation of ``past_key_values``.
            position_ids: for continuations; computed otherwise.
            past_key_values: cache to continue.
            inputs_embeds: ``(B, T, D)`` instead of ``input_ids``, text only.
            use_cache: return the cache.
            high_res: how closely to look; None: the checkpoint's defaults.
            regions: one entry per look; patches in them are chosen first (teacher forcing).
            look_index: ``(L,)`` the picture that each run of placeholders shows; None: run i shows picture i.
            prompt_positions: ``(B,)`` column of ``input_ids`` at which the question ends; None: found by
                ``config.prompt_end_ids``.
            saliency: also return the scores by the picture alone.
            scores_only: stop after the scores: no high-resolution pass, no second pass of the language model.
            always_look: run the tower also without pictures, on a blank one that does not count. Under ZeRO-3
                all ranks must call it equally often, whatever their batches hold.
            prompt_gradient: let the scores' gradient reach the language model; without it, as published, it
                ends at the prompt head.
            look_positions: ``(L,)`` column at which the question ends that guides each look, for rows with
                pictures in several turns; None: the one of its row (``prompt_positions``).
            packing: run the rows through the language model one after the other as one row, each attending to
                itself only, so that padding costs nothing; returns the last states only.
            **kwargs: handed to the language model (``output_hidden_states``, ``output_attentions``, ...).

        Raises:
            VilaHDError: placeholders and pictures do not fit, or an option does not fit the checkpoint.
        """
        if pixel_values is None and not always_look:
            if input_ids is not None and past_key_values is None:
                check_no_placeholders(input_ids, self.config.image_token_id)
            embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
            outputs = self.run_language_model(
                embeds, attention_mask, position_ids, past_key_values, use_cache, **kwargs
            )
            return VilaHDModelOutput(**outputs)
        if input_ids is None or past_key_values is not None:
            raise VilaHDError("pictures need input_ids and no past_key_values: pass the whole prompt")
        options = self.resolve_options(high_res)
        if options.pruning is not None and options.pruning.in_language_model:
            raise VilaHDError(
                f"pruning {options.pruning}: acts in generation only; use tome or visionzip here"
            )
        mask_BT = (
            torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        )
        blank = pixel_values is None
        if pixel_values is None:
            pixel_values, runs = self._blank_picture(input_ids)
            regions = look_index = look_positions = None
            if options.guided_by == "regions":
                options = replace(options, guided_by=self.config.default_guide, regions=())
        else:
            runs = self.check_runs(input_ids, len(pixel_values), look_index)
        embeds_BTD = self.get_input_embeddings()(input_ids)
        if look_positions is None:
            column_L = self.prompt_positions(input_ids, mask_BT, prompt_positions)[runs.row]
        else:
            column_L = check_look_positions(look_positions, runs, input_ids.shape[1])

        def make_prompt(low_BND: Tensor) -> Tensor:
            with torch.set_grad_enabled(prompt_gradient and torch.is_grad_enabled()):
                states_LD, _ = self.read_question(
                    self.insert_low_res(embeds_BTD, runs, look_index, low_BND, blank=blank),
                    mask_BT,
                    runs.row,
                    column_L,
                    packing=packing,
                )
            return self.projector.prompt(states_LD)

        visual = self._look(
            pixel_values,
            make_prompt,
            options,
            regions,
            look_index,
            saliency=saliency,
            scores_only=scores_only,
        )
        if blank:
            return self._forward_blank(
                embeds_BTD, mask_BT, visual, use_cache, scores_only=scores_only, packing=packing, **kwargs
            )
        if scores_only:
            return VilaHDModelOutput(visual=visual)
        assert visual.low is not None
        assert visual.high is not None
        if visual.pruned is None:
            embeds_BTD = self.insert_low_res(embeds_BTD, runs, look_index, visual.low)
        else:
            embeds_BTD = self.insert_low_res(embeds_BTD, runs, None, visual.pruned.low)
            mask_BT = visual.pruned.mask(mask_BT, runs)
        layout = lay_out(mask_BT, runs, visual.counts or (), padding_side="right")
        fused_BUD = layout.place(embeds_BTD, visual.high)
        outputs = self._run_rows(fused_BUD, layout.mask, use_cache, packing=packing, **kwargs)
        return VilaHDModelOutput(**outputs, visual=visual, layout=layout)

    # ---------------------------------------------------------------- parts, also used by generation

    def check_runs(self, input_ids: Tensor, num_pictures: int, look_index: Tensor | None) -> Runs:
        """The runs of placeholders, checked against the number of pictures.

        Raises:
            VilaHDError: they do not fit; names both numbers.
        """
        runs = find_runs(input_ids, self.config.image_token_id, self.config.low_res_tokens)
        looks = num_pictures if look_index is None else len(look_index)
        if len(runs) != looks:
            tokens = self.config.low_res_tokens
            what = "picture(s)" if look_index is None else "entries of look_index"
            raise VilaHDError(
                f"expected {looks * tokens} image tokens for {looks} {what} of {tokens} each, got "
                f"{len(runs) * tokens}: make input_ids and pixel_values with the model's own processor"
            )
        return runs

    def prompt_positions(self, input_ids: Tensor, mask_BT: Tensor, positions: Tensor | None) -> Tensor:
        """``(B,)`` columns at which the questions end; ``positions`` when given."""
        if positions is None:
            return find_prompt_positions(input_ids, mask_BT, self.config.prompt_end_ids)
        return check_prompt_positions(positions, input_ids)

    def insert_low_res(
        self,
        embeds_BTD: Tensor,
        runs: Runs,
        look_index: Tensor | None,
        low_PND: Tensor,
        *,
        blank: bool = False,
    ) -> Tensor:
        """``(B, T, D)``: the embeddings with low-resolution tokens at the placeholders."""
        if blank:
            return embeds_BTD
        low_LND = low_PND if look_index is None else low_PND[look_index.to(low_PND.device)]
        low_LND = low_LND.to(embeds_BTD)
        column_LN = runs.start[:, None] + torch.arange(low_LND.shape[1], device=runs.start.device)
        return embeds_BTD.index_put((runs.row[:, None].expand_as(column_LN), column_LN), low_LND)

    def project_high_res(
        self,
        low_PND: Tensor,
        high: HighRes | None,
        selection: PatchSelection | None,
        look_index: Tensor | None,
    ) -> tuple[Tensor, tuple[int, ...]]:
        """High-resolution tokens ``(N, D)`` look by look, and how many each look has.

        A look whose patches fill no cell gets its picture's first low-resolution token instead.
        """
        if high is None or selection is None:
            looks = len(low_PND) if look_index is None else len(look_index)
            return low_PND.new_zeros(0, low_PND.shape[-1]), (0,) * looks
        cells = cells_of(selection, self.config)
        counts = count_tokens(cells, selection)
        high_ND = self.projector.project_cells(high.features[0], cells)
        first_LD = low_PND[:, 0] if look_index is None else low_PND[look_index.to(low_PND.device), 0]
        return fill_empty_looks(high_ND, cells, counts, first_LD), counts

    # ---------------------------------------------------------------- training

    def _look(
        self,
        pixel_values: Pixels,
        make_prompt: Callable[[Tensor], Tensor],
        options: HighResOptions,
        regions: Regions | None,
        look_index: Tensor | None,
        *,
        saliency: bool,
        scores_only: bool,
    ) -> VisualTokens:
        """Look at the pictures in one call of the tower (ZeRO-3 gathers its parameters once per call)."""
        low_PND: list[Tensor] = []

        def prompt(low: LowRes) -> Tensor:
            low_PND.append(self.projector.project_low_res(low.features[0]))
            return make_prompt(low_PND[0]).to(low.features[0].device)

        if scores_only:
            if not self.config.vision_config.chooses:
                raise VilaHDError("scores_only: this model's tower chooses no patches, so it has no scores")
            # The tower scores on the way to a choice; a choice of one patch costs nothing.
            options = replace(options, budget=1)
        with_prompt = self.wants_prompt(options) and options.budget != 0
        seen = self.vision_tower(
            pixel_values,
            prompt if with_prompt else None,
            options=options,
            regions=regions,
            look_index=look_index,
            layers=layers_of(self, options.pruning),
            saliency=saliency,
        )
        low = low_PND[0] if low_PND else self.projector.project_low_res(seen.low.features[0])
        high, counts = self.project_high_res(low, seen.high, seen.selection, look_index)
        pruned = None
        if options.pruning is not None and not scores_only:
            pruned = prune_looks(
                self,
                options.pruning,
                Seen(seen.low, low, seen.high, seen.selection, high, counts, look_index),
            )
            high, counts = pruned.high, pruned.counts
        return VisualTokens(
            low=low,
            high=high,
            counts=counts,
            pruned=pruned,
            selection=seen.selection,
            scores=seen.scores,
            saliency_scores=seen.saliency_scores,
            low_res=seen.low,
        )

    def wants_prompt(self, options: HighResOptions) -> bool:
        """Whether the question has a say in what is looked at."""
        return options.guided_by in ("prompt", "regions") and self.config.prompt_head is not None

    def _blank_picture(self, input_ids: Tensor) -> tuple[Tensor, Runs]:
        check_no_placeholders(input_ids, self.config.image_token_id)
        side = self.config.vision_config.ps3_scales[0]
        zero_L = torch.zeros(1, dtype=torch.long, device=input_ids.device)
        return torch.zeros(1, 3, side, side, dtype=torch.uint8, device=input_ids.device), Runs(
            zero_L, zero_L, zero_L
        )

    def _forward_blank(
        self,
        embeds_BTD: Tensor,
        mask_BT: Tensor,
        visual: VisualTokens,
        use_cache: bool | None,
        *,
        scores_only: bool,
        packing: bool,
        **kwargs: Any,
    ) -> VilaHDModelOutput:
        """The text alone, joined with weight zero to everything that a picture would have run through."""
        shown, nothing = visual.without_weight()
        if scores_only:
            return VilaHDModelOutput(visual=shown)
        outputs = self._run_rows(
            embeds_BTD + nothing.to(embeds_BTD), mask_BT, use_cache, packing=packing, **kwargs
        )
        return VilaHDModelOutput(**outputs, visual=shown)


class VilaHDForConditionalGeneration(VilaHDPreTrainedModel, TwoStepGenerationMixin):
    """``VilaHDModel`` with the language model's head: loss and generation."""

    accepts_loss_kwargs = True

    def __init__(self, config: VilaHDConfig) -> None:
        super().__init__(config)
        self.model = VilaHDModel(config)
        text = config.text_config
        self.lm_head: nn.Module = nn.Linear(text.hidden_size, text.vocab_size, bias=config.lm_head_bias)
        # The embedding's name differs between language models.
        name = next(name for name, part in self.named_modules() if part is self.get_input_embeddings())
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Pixels | None = None,
        image_sizes: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        high_res: HighResOptions | None = None,
        regions: Regions | None = None,
        look_index: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        saliency: bool = False,
        scores_only: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> VilaHDOutput:
        """Logits, loss and what was looked at.

        Arguments that are not named here are those of ``VilaHDModel.forward``.

        - ``image_sizes``: (height, width) of each picture as opened; needed for ``high_res.regions``.
        - ``labels``: ``(B, T)`` ids to predict at the columns of ``input_ids``, -100 elsewhere. Visual tokens
          never carry loss.
        - ``num_items_in_batch``: supervised tokens of the whole batch over all ranks and accumulation steps,
          by which the summed loss is divided; None: those of this call.
        - ``logits_to_keep``: compute logits of the last so many positions only; 0: of all.
        - ``return_dict``: here because transformers passes it; the output is always an object.

        Raises:
            VilaHDError: placeholders and pictures do not fit, or an option does not fit the checkpoint.
        """
        if high_res is not None and high_res.regions and pixel_values is not None:
            if regions is not None:
                raise VilaHDError("regions given twice: as HighResOptions(regions=...) and as regions=")
            regions = regions_from_options(high_res, image_sizes, look_index, len(pixel_values))
        outputs = self.model(
            input_ids,
            attention_mask,
            pixel_values,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=False if self.training and use_cache is None else use_cache,
            high_res=high_res,
            regions=regions,
            look_index=look_index,
            prompt_positions=prompt_positions,
            saliency=saliency,
            scores_only=scores_only,
            # Decided by the mode, which all ranks share, never by what a rank's batch holds.
            always_look=past_key_values is None
            and (self.training or (labels is not None and is_deepspeed_zero3_enabled())),
            **kwargs,
        )
        visual = outputs.visual or VisualTokens()
        result = VilaHDOutput(
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            looks=visual.selection,
            scores=visual.scores,
            saliency_scores=visual.saliency_scores,
        )
        if scores_only:
            return result
        states = outputs.last_hidden_state
        if labels is not None:
            labels = self._place_labels(labels, input_ids, outputs.layout)
        if labels is not None and self.training:
            result.loss, result.supervised_logits = supervised_loss(
                states, labels, num_items_in_batch, self._logits
            )
            return result
        if isinstance(logits_to_keep, Tensor):
            states = states[:, logits_to_keep]
        elif logits_to_keep:
            states = states[:, -logits_to_keep:]
        result.logits = self._logits(states)
        if labels is not None:
            result.loss = next_token_loss(result.logits, labels, num_items_in_batch)
            result.labels = labels
        return result

    def _logits(self, states: Tensor) -> Tensor:
        return scale_logits(self.lm_head(states), self.config.text_config)

    def _place_labels(self, labels: Tensor, input_ids: Tensor | None, layout: Layout | None) -> Tensor:
        if input_ids is not None:
            if labels.shape != input_ids.shape:
                raise VilaHDError(
                    f"labels of shape {tuple(labels.shape)} for input_ids of {tuple(input_ids.shape)}"
                )
            labels = labels.masked_fill(input_ids == self.config.image_token_id, IGNORE_INDEX)
        return labels if layout is None else layout.place_labels(labels)


AutoModel.register(VilaHDConfig, VilaHDModel, exist_ok=True)
AutoModelForImageTextToText.register(VilaHDConfig, VilaHDForConditionalGeneration, exist_ok=True)
