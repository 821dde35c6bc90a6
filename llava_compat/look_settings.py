"""How closely to look in the words that VILA scripts use, and what it means as our options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions

LOOK_MODES: Mapping[str, Literal["prompt", "saliency"]] = {
    "after_prompt": "prompt",
    "after_image": "saliency",
}
"""``look_close_mode`` -> what steers the choice."""

Count = int | Literal["all"] | None


@dataclass(frozen=True, kw_only=True)
class LookSettings:
    """Attributes that scripts set on a model, and that its config.json starts with."""

    num_look_close: Count = 1
    """High-resolution passes; ``all``: as many as there are; 0: low resolution only."""

    num_token_look_close: Count = None
    """High-resolution patches over all passes; wins over ``num_look_close`` where it is set."""

    look_close_mode: str = "after_prompt"
    """``after_prompt``: the question steers the choice; ``after_image``: the picture alone."""

    max_select_num_each_scale: Sequence[int] | None = None
    """Patches of each high-resolution scale in one pass; None: the checkpoint's own."""

    smooth_selection_prob: bool = False
    """Average the score map over 6 x 6 blocks first."""

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Self:
        """What a published config.json starts with."""
        return cls(
            num_look_close=values["num_look_close"],
            num_token_look_close=values["num_token_look_close"],
            look_close_mode=values["look_close_mode"],
        )

    def to_options(self, split: Sequence[int]) -> HighResOptions:
        """The same choices as ``HighResOptions``.

        Args:
            split: patches of each high-resolution scale in one pass of the checkpoint.

        Raises:
            VilaHDError: a value that means nothing; names the attribute, the value and the fix.
        """
        for name in ("num_look_close", "num_token_look_close"):
            _check_count(name, getattr(self, name))
        if self.look_close_mode not in LOOK_MODES:
            raise VilaHDError(f"look_close_mode={self.look_close_mode!r}: use one of {', '.join(LOOK_MODES)}")
        if not isinstance(self.smooth_selection_prob, bool):
            raise VilaHDError(f"smooth_selection_prob={self.smooth_selection_prob!r}: use True or False")
        per_scale = self._per_scale(split)
        return HighResOptions(
            budget=self._budget(per_scale or split),
            guided_by=LOOK_MODES[self.look_close_mode],
            per_scale=per_scale,
            smooth=self.smooth_selection_prob,
        )

    def _per_scale(self, split: Sequence[int]) -> tuple[int, ...] | None:
        given = self.max_select_num_each_scale
        if given is None:
            return None
        good = isinstance(given, Sequence) and not isinstance(given, str)
        if not good or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in given):
            raise VilaHDError(
                f"max_select_num_each_scale={given!r}: use a list of whole numbers >= 0, such as "
                f"{list(split)}"
            )
        if len(given) != len(split) or not sum(given):
            raise VilaHDError(
                f"max_select_num_each_scale={list(given)} has {len(given)} number(s): use {len(split)}, one "
                "per high-resolution scale, not all zero"
            )
        return tuple(given)

    def _budget(self, split: Sequence[int]) -> int | Literal["all"]:
        if self.num_token_look_close is not None:
            return self.num_token_look_close
        if self.num_look_close == "all":
            return "all"
        # Differs from the reference, which fails without any number.
        passes = 1 if self.num_look_close is None else self.num_look_close
        return passes * sum(split)


def _check_count(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (value is None or value == "all" or whole):
        raise VilaHDError(f"{name}={value!r}: use a whole number >= 0, 'all' or None")
