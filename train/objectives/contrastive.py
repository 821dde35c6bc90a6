"""Sigmoid contrastive loss between visual and text vectors, with the texts of all ranks as negatives.

Shape suffixes: N = pairs of this rank, M = pairs of all ranks, D = width of the shared space.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distributed import gather_rows, rank, row_counts, world_size


@dataclass(frozen=True)
class Pairs:
    """Matching rows: visual vector i belongs to text vector i."""

    visual: Tensor
    """``(N, D)``, not normalised."""

    text: Tensor
    """``(N, D)``, not normalised."""

    picture: Tensor
    """``(N,)`` long; equal numbers mean the same picture, over all ranks."""

    caption: Tensor
    """``(N,)`` long; equal numbers mean the same wording, over all ranks."""


def negatives(
    picture_N: Tensor, caption_N: Tensor, picture_M: Tensor, caption_M: Tensor, *, intra_image: bool
) -> Tensor:
    """Bool ``(N, M)``: pairs that may count as negatives.

    Equal captions never do (they are true matches, the pair itself among them). Pairs of one picture do not
    either unless ``intra_image``: captions of regions of one picture may describe each other's region as
    well.
    """
    allowed = caption_N[:, None] != caption_M[None, :]
    if not intra_image:
        allowed &= picture_N[:, None] != picture_M[None, :]
    return allowed


@dataclass(frozen=True)
class ExtraNegatives:
    """Texts that are negatives of one visual vector only, such as its caption with another word."""

    text: Tensor
    """``(T, D)``, not normalised."""

    index: Tensor
    """``(N, K)`` long: rows of ``text`` for each visual vector; -1 where it has fewer than K."""


def sigmoid_contrastive_loss(
    pairs: Pairs,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    intra_image_negatives: bool = False,
    extra: ExtraNegatives | None = None,
) -> Tensor:
    """Loss of this rank, scaled so that the mean over ranks is ``-1/M * sum log sigmoid(+-(s v.t + b))``.

    The sum runs over every pair of a visual and a text vector of all ranks that is the match or an allowed
    negative; ``M`` counts the pairs of all ranks. So the result, and after the usual gradient averaging the
    gradient too, does not depend on how the pairs are spread over ranks.

    Args:
        pairs: the rows of this rank.
        logit_scale: scalar, the *logarithm* of the factor on cosine similarities.
        logit_bias: scalar.
        intra_image_negatives: whether other regions of the same picture are negatives.
        extra: further negatives, counted like the others; they stay on this rank.
    """
    with torch.autocast(pairs.visual.device.type, enabled=False):
        visual = F.normalize(pairs.visual.float(), dim=-1)
        text = F.normalize(pairs.text.float(), dim=-1)
        counts = row_counts(text)
        text_MD = gather_rows(text, counts)
        picture_M, caption_M = gather_rows(pairs.picture, counts), gather_rows(pairs.caption, counts)
        logits = logit_scale.float().exp() * visual @ text_MD.T + logit_bias.float()
        keep = negatives(
            pairs.picture, pairs.caption, picture_M, caption_M, intra_image=intra_image_negatives
        )
        own = torch.arange(len(visual), device=visual.device) + sum(counts[: rank()])
        positive = F.logsigmoid(logits.gather(1, own[:, None])).sum()
        negative = (F.logsigmoid(-logits) * keep).sum()
        if extra is not None:
            extra_ND = F.normalize(extra.text.float(), dim=-1)
            all_logits = logit_scale.float().exp() * visual @ extra_ND.T + logit_bias.float()
            chosen = F.logsigmoid(-all_logits.gather(1, extra.index.clamp(min=0)))
            negative = negative + (chosen * (extra.index >= 0)).sum()
        return -(positive + negative) * world_size() / max(sum(counts), 1)


def retrieval_rate(pairs: Pairs) -> Tensor:
    """Share of this rank's visual vectors whose nearest text of this rank is their own (or the same
    wording)."""
    with torch.no_grad():
        similarity = F.normalize(pairs.visual.float(), dim=-1) @ F.normalize(pairs.text.float(), dim=-1).T
        best = similarity.argmax(1)
        return (pairs.caption[best] == pairs.caption).float().mean()
