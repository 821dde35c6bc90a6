"""What the passes of the tower return. All are dictionaries too, so that hooks of training engines find
the tensors."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .layers import KeyValue
from .selection import Grids, PatchSelection


@dataclass
class LowRes(ModelOutput):
    """The low-resolution pass over some pictures. Keep it to look at the same pictures again.

    B = pictures, N = ``grid * grid`` low-resolution tokens, D = width, K = tapped blocks, h = heads, d =
    head width.
    """

    pictures: list[Tensor] = None  # type: ignore[assignment]  # ModelOutput wants defaults
    """The inputs ``(3, H, W)``, not copied."""
    grids: tuple[Grids, ...] = None  # type: ignore[assignment]
    """Per picture and high-resolution scale: rows and columns of patches."""
    features: tuple[Tensor, ...] = None  # type: ignore[assignment]
    """``(B, N, D)`` per requested layer, in the order of ``layers``."""
    cache: list[KeyValue] = None  # type: ignore[assignment]
    """Keys and values ``(B, h, N, d)`` per block; empty without ``keep_cache``."""
    taps: Tensor | None = None
    """``(B, N, K * D)``: block outputs that the selector reads; None without ``taps``."""
    pooled: Tensor | None = None
    """``(B, D_out)``: attention-pooled vector; None without ``pool``."""
    layers: tuple[int, ...] = None  # type: ignore[assignment]
    """The requested layers."""

    @property
    def memo(self) -> dict[str, Any]:
        """What later steps computed and may use again; not part of the output."""
        found: dict[str, Any] = self.__dict__.setdefault("_memo", {})
        return found


@dataclass
class HighRes(ModelOutput):
    """The high-resolution passes. L = looks, K = chosen patches, D = width."""

    features: tuple[Tensor, ...] = None  # type: ignore[assignment]
    """``(L, K, D)`` per requested layer, in the order of the selection's ``index``; zeros at its padding."""
    pooled: Tensor | None = None
    """``(L, D_out)``: attention-pooled vector; None when not asked for."""


@dataclass
class PS3VisionOutput(ModelOutput):
    """Everything one call of the tower computed. L = looks, g = side of the low-resolution grid."""

    last_hidden_state: Tensor | None = None
    """``(L, g * g + K, D)``: low-resolution tokens, then the chosen patches, of the last requested layer."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The same for every requested layer, in the order of ``layers``."""
    pooled_output: Tensor | None = None
    """``(L, D_out)``: pooled high-resolution tokens, or low-resolution ones when nothing was chosen."""
    low: LowRes = None  # type: ignore[assignment]
    high: HighRes | None = None
    selection: PatchSelection | None = None
    scores: Tensor | None = None
    """``(L, g, g)``: the probabilities used for the choice."""
    saliency_scores: Tensor | None = None
    """``(L, g, g)``: guided by the picture alone; None when not computed."""
    prompt_scores: Tensor | None = None
    """``(L, g, g)``: guided by the prompt; None when not computed."""
    score_maps: list[list[Tensor]] | None = None
    """Per look and scale ``(rows, columns)``; only with ``HighResOptions.return_maps``."""
