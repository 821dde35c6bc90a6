"""How closely to look and what steers the choice: one row of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, cast

from vila_hd.errors import VilaHDError
from vila_hd.options import GUIDES, Guide, HighResOptions, Pruning

Budget = int | Literal["auto", "all"]


@dataclass(frozen=True, order=True)
class Condition:
    """One way to look."""

    budget: Budget
    """Patches per picture; ``auto`` is the checkpoint's default."""

    guided_by: Guide | None
    """None: a model of another kind, which looks in its own way."""

    per_scale: tuple[int, ...] | None = None
    """Patches of each high-resolution scale in one pass, low scale first; None: the checkpoint's own."""

    pruning: Pruning | None = None
    """None: the checkpoint's own, usually none."""

    side: int | None = None
    """Pictures are reduced to fit into a square of this side first, in pixels; None: as they are."""

    @property
    def key(self) -> str:
        """Name of the condition in prediction files."""
        key = f"{self.guided_by}-{self.budget}" if self.budget != 0 else "low-res"
        if self.guided_by is None:
            key = "own"
        if self.per_scale is not None:
            key += "-" + "x".join(map(str, self.per_scale))
        if self.pruning is not None:
            key += f"+{self.pruning}"
        return key if self.side is None else f"{key}@{self.side}"

    def options(self) -> HighResOptions:
        """What the model is asked."""
        assert self.guided_by is not None, self
        return HighResOptions(
            budget=self.budget,
            guided_by=self.guided_by,
            per_scale=self.per_scale,
            pruning=self.pruning,
        )


OWN = Condition("auto", None)
"""The only condition of models of other kinds."""


def parse_budget(text: str) -> Budget:
    """A budget given on the command line.

    Raises:
        VilaHDError: it is neither a number >= 0 nor auto or all.
    """
    if text in ("auto", "all"):
        return cast(Literal["auto", "all"], text)
    if not text.isascii() or not text.isdigit():
        raise VilaHDError(f"--budget {text!r}: use a number of patches, 'auto' or 'all'")
    return int(text)


def parse_per_scale(text: str) -> tuple[int, ...]:
    """Patches per scale given on the command line, such as ``2048,8192,0``.

    Raises:
        VilaHDError: they are not numbers >= 0, or all zero.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts) or not any(map(int, parts)):
        raise VilaHDError(f"--per-scale {text!r}: use one number of patches per scale, such as 2048,8192,0")
    return tuple(map(int, parts))


def cross(
    budgets: Sequence[str],
    guides: Sequence[str],
    per_scale: Sequence[str] = (),
    prunings: Sequence[str] = (),
) -> tuple[Condition, ...]:
    """Every budget with every guide, division among scales and pruning, each once.

    Budget 0 looks at nothing, so it needs neither guide nor division.

    Raises:
        VilaHDError: an unknown guide, budget, division or pruning.
    """
    unknown = [guide for guide in guides if guide not in GUIDES]
    if unknown:
        raise VilaHDError(f"--guided-by {unknown[0]!r}: use some of {', '.join(GUIDES)}")
    divisions = tuple(parse_per_scale(part) for part in per_scale)
    pruned = tuple(None if text == "none" else Pruning.parse(text) for text in prunings)
    conditions: dict[str, Condition] = {}
    for text in budgets:
        budget = parse_budget(text)
        for guide, division, pruning in product(guides, divisions or (None,), pruned or (None,)):
            condition = (
                Condition(budget, cast(Guide, guide), division, pruning)
                if budget != 0
                else Condition(0, "saliency", None, pruning)
            )
            conditions.setdefault(condition.key, condition)
    return tuple(conditions.values())
