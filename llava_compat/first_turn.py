"""Where the published code reads the question: at the end of the first user turn."""

from collections.abc import Sequence

import torch
from torch import Tensor


def first_turn_ends(input_ids: Tensor, attention_mask: Tensor, end_ids: Sequence[int]) -> Tensor:
    """``(B,)`` columns of the last token of each row's first user turn, for ``prompt_positions``.

    Our models read the last question of a conversation; the published code reads the first one. Pass this to
    a call for its exact behaviour.

    Args:
        input_ids: ``(B, T)``.
        attention_mask: ``(B, T)``, 0 at padding.
        end_ids: ``config.prompt_end_ids``.
    """
    length = len(end_ids)
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = torch.where(attention_mask.bool(), columns, -1).amax(1).clamp(min=0)
    if not length or length >= input_ids.shape[1]:
        return last
    end = torch.tensor(list(end_ids), device=input_ids.device)
    found = (input_ids.unfold(1, length, 1) == end).all(-1)
    # The reference falls back to the last column, padding included; here the last token counts.
    return torch.where(found.any(1), found.long().argmax(1) - 1, last)
