"""What the models return.

Letters used for shapes in this file:
    B = rows of the batch, T = columns of ``input_ids``, U = columns with high-resolution tokens, P =
    pictures, L = looks (uses of a picture), N = high-resolution tokens of all looks together, g = side of the
    low-resolution grid, D = language-model width.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.utils import ModelOutput

from .fusion import Layout
from .pruning.looks import PrunedTokens
from .ps3.outputs import LowRes
from .ps3.selection import PatchSelection


@dataclass
class VisualTokens(ModelOutput):
    """What the tower and the projector made of the pictures of one batch."""

    low: Tensor | None = None
    """``(P, tokens, D)``: low-resolution tokens per picture."""

    high: Tensor | None = None
    """``(N, D)``: high-resolution tokens, look by look."""

    counts: tuple[int, ...] | None = None
    """High-resolution tokens per look."""

    pruned: PrunedTokens | None = None
    """What pruning left, with ``high`` and ``counts`` among it; None: nothing was pruned."""

    selection: PatchSelection | None = None
    scores: Tensor | None = None
    """``(L, g, g)``: the scores that the choice was made by, with gradient."""

    saliency_scores: Tensor | None = None
    """``(L, g, g)``: scores by the picture alone, where computed."""

    low_res: LowRes | None = None
    """The tower's low-resolution pass; hand it to ``generate`` to ask more about the same pictures."""

    def without_weight(self) -> tuple["VisualTokens", Tensor]:
        """The same for no looks at all, and a zero that everything computed here had a part in.

        With that zero in the loss, all parameters get gradients (of zero) although nothing was looked at.
        """
        assert self.low is not None
        assert self.high is not None
        nothing = 0.0 * (self.low.sum() + self.high.sum())
        for scores in (self.scores, self.saliency_scores):
            # Where only scores learn, ranks with pictures never run the language model backward.
            if scores is not None and nothing.requires_grad:
                nothing = nothing + 0.0 * scores.sum()
        shown = VisualTokens(
            # These need a gradient exactly when those of pictures do: ZeRO-3 counts the outputs that do.
            scores=None if self.scores is None else self.scores[:0],
            saliency_scores=None if self.saliency_scores is None else self.saliency_scores[:0],
        )
        return shown, nothing


@dataclass
class VilaHDModelOutput(ModelOutput):
    """Output of ``VilaHDModel``: of the language model, over the fused sequence."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    visual: VisualTokens | None = None
    layout: Layout | None = None


@dataclass
class VilaHDOutput(ModelOutput):
    """Output of ``VilaHDForConditionalGeneration``."""

    loss: Tensor | None = None
    """Scalar, with ``labels``."""

    logits: Tensor | None = None
    """``(B, U, vocabulary)`` over the fused sequence; None in training with labels, where only supervised
    positions are computed."""

    supervised_logits: Tensor | None = None
    """``(supervised tokens, vocabulary)``, row by row; only in training with labels."""

    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    looks: PatchSelection | None = None
    """Which patches each look chose; None without pictures or with budget 0."""

    scores: Tensor | None = None
    """``(L, g, g)``: the scores that the choice was made by, with gradient; no rows for a batch without
    pictures."""

    saliency_scores: Tensor | None = None
    """``(L, g, g)``: scores by the picture alone, where computed."""

    labels: Tensor | None = None
    """``(B, U)``: ``labels`` in their places of the fused sequence; None in training."""
