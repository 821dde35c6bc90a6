"""Fewer tokens of one picture: soft matching (ToMe), and dominant plus contextual tokens (VisionZip).

Pure functions. Shape suffixes used in this file:
    N = tokens of a picture, K = tokens that stay, D = width, C = width of what similarity is told by.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1 << 24
"""Similarities that are in memory at a time (64 MB)."""


@dataclass(frozen=True)
class Reduced:
    """What is left of a picture's tokens."""

    tokens: Tensor
    """``(K, D)`` in the dtype of the tokens."""

    index: Tensor
    """``(K,)`` whose place each of them takes, ascending."""


def tome(tokens_ND: Tensor, kept: int) -> Reduced:
    """Merge the most similar tokens until ``kept`` are left.

    Rounds of bipartite soft matching: every other token may join the most similar one of the rest, those that
    are most similar do, and a token is the mean of all that joined it. A round merges at most half of the
    tokens. Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3; here the tokens
    themselves tell their similarity, where a vision transformer's block has keys.
    """
    index_N = torch.arange(len(tokens_ND), device=tokens_ND.device)
    size_N = torch.ones_like(index_N, dtype=torch.float32)
    values_ND = tokens_ND.float()
    while len(values_ND) > kept:
        count = min(len(values_ND) - kept, len(values_ND) // 2)
        some, others = slice(0, None, 2), slice(1, None, 2)
        partner, similarity = _most_similar(values_ND[some], values_ND[others])
        order = similarity.argsort(descending=True, stable=True)
        joins, stays = order[:count], order[count:]
        into, weight = partner[joins], size_N[some][joins]
        size = size_N[others].index_add(0, into, weight)
        total = values_ND[others] * size_N[others, None]
        total = total.index_add(0, into, values_ND[some][joins] * weight[:, None])
        index_N = torch.cat([index_N[some][stays], index_N[others]])
        back = index_N.argsort()
        index_N = index_N[back]
        size_N = torch.cat([size_N[some][stays], size])[back]
        values_ND = torch.cat([values_ND[some][stays], total / size[:, None]])[back]
    return Reduced(values_ND.to(tokens_ND.dtype), index_N)


def visionzip(tokens_ND: Tensor, received_N: Tensor, keys_NC: Tensor, kept: int) -> Reduced:
    """Keep the tokens that receive most attention and merge the rest into a few: ``kept`` in all.

    10 of 64 tokens are contextual: evenly spaced ones among the rest, each the mean of itself and of all
    whose keys are most similar to its own. Source: Yang et al., "VisionZip: Longer is Better but Not
    Necessary in Vision Language Models", CVPR 2025, section 3; the division is that of its 64, 128 and 192
    tokens.

    Args:
        tokens_ND: what the language model would get.
        received_N: attention that each token receives in the tower, in any unit.
        keys_NC: the tower's key of each token.
        kept: at most N.
    """
    contextual = kept * 10 // 64
    order = received_N.argsort(descending=True, stable=True)
    dominant, rest = order[: kept - contextual], order[kept - contextual :].sort().values
    if not contextual:
        index = dominant.sort().values
        return Reduced(tokens_ND[index], index)
    # As in the published code: the first of equal steps, so that the end of the picture may get none.
    spot = torch.arange(contextual, device=rest.device) * (len(rest) // contextual)
    target = rest[spot]
    joins = rest[~torch.isin(rest, target)]
    into, _ = _most_similar(keys_NC[joins].float(), keys_NC[target].float())
    size = torch.ones_like(target, dtype=torch.float32).index_add(
        0, into, torch.ones(len(joins), device=rest.device)
    )
    total = tokens_ND[target].float().index_add(0, into, tokens_ND[joins].float())
    merged = (total / size[:, None]).to(tokens_ND.dtype)
    index = torch.cat([dominant, target])
    back = index.argsort()
    return Reduced(torch.cat([tokens_ND[dominant], merged])[back], index[back])


@torch.no_grad()
def _most_similar(some_NC: Tensor, others_MC: Tensor) -> tuple[Tensor, Tensor]:
    """For each of some vectors the number of the most similar other one ``(N,)``, and their cosine."""
    some_NC, others_MC = F.normalize(some_NC, dim=-1), F.normalize(others_MC, dim=-1)
    best = [(part @ others_MC.T).max(1) for part in some_NC.split(max(1, _CHUNK // max(1, len(others_MC))))]
    return torch.cat([one.indices for one in best]), torch.cat([one.values for one in best])
