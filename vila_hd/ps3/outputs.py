"""What the passes of the tower return. All are dictionaries too, so that hooks of training engines find
the tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
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

    def split(self) -> list[Self]:
        """The same, picture by picture, sharing nothing that one picture alone does not need."""
        return [self._only(i) for i in range(len(self.pictures))]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The low-resolution pass over the pictures of all ``parts``: of one tower, and of the same layers.

        What only some parts remember (``memo``) is computed again when it is needed.
        """
        first = parts[0]
        joined = cls(
            pictures=[picture for part in parts for picture in part.pictures],
            grids=tuple(grids for part in parts for grids in part.grids),
            features=tuple(
                torch.cat(layer) for layer in zip(*(part.features for part in parts), strict=True)
            ),
            cache=[
                (torch.cat([keys for keys, _ in block]), torch.cat([values for _, values in block]))
                for block in zip(*(part.cache for part in parts), strict=True)
            ],
            taps=_cat([part.taps for part in parts]),
            pooled=_cat([part.pooled for part in parts]),
            layers=first.layers,
        )
        for key in first.memo:
            if not all(key in part.memo for part in parts):
                continue
            values = [part.memo[key] for part in parts]
            if key == "views":
                joined.memo[key] = [view for value in values for view in value]
            else:
                joined.memo[key] = tuple(_cat(list(tensors)) for tensors in zip(*values, strict=True))
        return joined

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, pictures and ``memo`` included."""
        views = self.memo.get("views", [])
        tensors = [
            *self.features,
            *(tensor for pair in self.cache for tensor in pair),
            self.taps,
            self.pooled,
        ]
        tensors += [level for view in views for level in view.levels]
        tensors += [tensor for key, value in self.memo.items() if key != "views" for tensor in value]
        tensors += [] if views else self.pictures
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def _only(self, i: int) -> Self:
        def own(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[i : i + 1].clone()

        part = type(self)(
            pictures=[self.pictures[i]],
            grids=(self.grids[i],),
            features=tuple(value[i : i + 1].clone() for value in self.features),
            cache=[(keys[i : i + 1].clone(), values[i : i + 1].clone()) for keys, values in self.cache],
            taps=own(self.taps),
            pooled=own(self.pooled),
            layers=self.layers,
        )
        for key, value in self.memo.items():
            part.memo[key] = [value[i]] if key == "views" else tuple(own(tensor) for tensor in value)
        return part


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [value for value in values if value is not None]
    return torch.cat(tensors) if len(tensors) == len(values) else None


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
