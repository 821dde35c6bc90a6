"""From states of the language model to logits and loss.

Shape suffixes used in this file:
    B = rows of the batch, U = columns, M = positions, D = width, V = vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from .constants import IGNORE_INDEX


def scale_logits(logits: Tensor, config: PreTrainedConfig) -> Tensor:
    """Logits as the language model's own class makes them of its head's outputs."""
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def next_token_loss(logits_BUV: Tensor, labels_BU: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Cross-entropy of every position with the label after it, see ``supervised_loss``."""
    return _token_loss(logits_BUV[:, :-1].flatten(0, 1), labels_BU[:, 1:].flatten(), num_items)


def supervised_loss(
    states_BUD: Tensor, labels_BU: Tensor, num_items: Tensor | int | None, head: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The loss, and the logits it comes from: those of supervised positions only, as visual tokens outnumber
    words by far.

    Args:
        states_BUD: ``(B, U, D)``.
        labels_BU: ``(B, U)`` ids, -100 where there is no loss.
        num_items: what the summed loss is divided by; None: the labels of this call.
        head: states ``(M, D)`` -> logits ``(M, V)``.
    """
    targets_M = labels_BU[:, 1:].flatten()
    states_MD = states_BUD[:, :-1].flatten(0, 1)
    supervised_M = targets_M != IGNORE_INDEX
    if not bool(supervised_M.any()):
        # The head must run on every rank, and the loss must reach every parameter.
        logits_MV = head(states_MD[:1])
        return 0.0 * logits_MV.sum(), logits_MV[:0]
    logits_MV = head(states_MD[supervised_M])
    return _token_loss(logits_MV, targets_M[supervised_M], num_items), logits_MV


def _token_loss(logits_MV: Tensor, targets_M: Tensor, num_items: Tensor | int | None) -> Tensor:
    targets_M = targets_M.to(logits_MV.device)
    if num_items is None:
        count = (targets_M != IGNORE_INDEX).sum().clamp(min=1)
    else:
        count = torch.as_tensor(num_items, device=logits_MV.device)
    total = F.cross_entropy(logits_MV.float(), targets_M, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / count
