"""How closely to look and what steers the choice: one row of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from vila_hd.errors import VilaHDError

Guide = Literal["prompt", "saliency", "random"]
GUIDES: tuple[Guide, ...] = ("prompt", "saliency", "random")
"""The question, the picture alone, or (a baseline of this benchmark) random scores."""

Budget = int | Literal["auto", "all"]


@dataclass(frozen=True, order=True)
class Condition:
    """One way to look."""

    budget: Budget
    """Patches per picture; ``auto`` is the checkpoint's default."""

    guided_by: Guide

    @property
    def key(self) -> str:
        """Name of the condition in prediction files."""
        return f"{self.guided_by}-{self.budget}" if self.budget != 0 else "low-res"


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


def cross(budgets: Sequence[str], guides: Sequence[str]) -> tuple[Condition, ...]:
    """Every budget with every guide, each once; budget 0 looks at nothing, so it needs no guide.

    Raises:
        VilaHDError: an unknown guide or budget.
    """
    unknown = [guide for guide in guides if guide not in GUIDES]
    if unknown:
        raise VilaHDError(f"--guided-by {unknown[0]!r}: use some of {', '.join(GUIDES)}")
    conditions: dict[str, Condition] = {}
    for text in budgets:
        budget = parse_budget(text)
        for guide in guides:
            condition = Condition(budget, cast(Guide, guide if budget != 0 else "saliency"))
            conditions.setdefault(condition.key, condition)
    return tuple(conditions.values())
