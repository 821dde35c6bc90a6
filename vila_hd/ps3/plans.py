"""How many patches each pass takes from each scale. Pure integer arithmetic, the same on every rank."""

from collections.abc import Sequence
from typing import Literal

from ..errors import VilaHDError

PassPlan = tuple[tuple[int, ...], ...]
"""Per pass, the number of patches of each high-resolution scale."""

Rounding = Literal["remainder", "floor"]
"""What becomes of patches that rounding down leaves over: given to the last scale, or dropped."""


def default_budget_split(
    scales: Sequence[int], max_select_num: int, *, rounding: Rounding
) -> tuple[int, ...]:
    """Split the patches of one pass over the high-resolution scales by their area.

    Args:
        scales: all scales in pixels, low to high; the first gets no share.
        max_select_num: patches of one pass.
        rounding: see ``Rounding``.
    """
    return _share([scale**2 for scale in scales[1:]], max_select_num, rounding)


def _share(weights: Sequence[int], amount: int, rounding: Rounding) -> tuple[int, ...]:
    """Split ``amount`` in proportion to ``weights``, rounding down."""
    parts = [weight * amount // sum(weights) for weight in weights]
    if rounding == "remainder":
        parts[-1] += amount - sum(parts)
    return tuple(parts)


def plan_passes(
    sizes: Sequence[int],
    split: Sequence[int],
    *,
    budget: int | Literal["auto", "all"],
    num_scales: int | None = None,
    rounding: Rounding = "remainder",
) -> PassPlan:
    """Plan the passes of one look: exact, complete, and equal to the published arithmetic where that is.

    Every pass takes ``sum(split)`` patches, the last one what is left of the budget. A scale with too few
    patches passes the rest of its share on to the next scale, and the last scale passes it back down.
    (Differs from the reference, which loses what the last scale cannot use, so that its ``all`` may be
    incomplete.)

    Args:
        sizes: patches of each high-resolution scale.
        split: patches of each scale in one full pass.
        budget: patches over all passes; ``auto``: one full pass; ``all``: every patch. More than there are is
            clamped.
        num_scales: use only the first so many scales; their shares grow so that a pass keeps its size.
        rounding: see ``Rounding``; with ``floor`` a last pass that is not full may come out a little short.

    Returns:
        One tuple per pass that takes any patch; empty for budget 0.
    """
    count = len(sizes) if num_scales is None else num_scales
    if len(sizes) != len(split) or not 0 < count <= len(sizes):
        raise VilaHDError(
            f"num_scales={num_scales} with {len(sizes)} scales and a split of {len(split)} numbers"
        )
    per_pass = sum(split)
    shares = list(split[:count]) if sum(split[:count]) else list(sizes[:count])
    full = tuple(split) if count == len(sizes) else _share(shares, per_pass, "remainder")
    free = list(sizes[:count])
    wanted = per_pass if budget == "auto" else sum(free) if budget == "all" else int(budget)
    left = min(wanted, sum(free))
    plan = []
    while left > 0:
        amount = min(per_pass, left)
        taken = _take(full if amount == per_pass else _share(shares, amount, rounding), free, lose_rest=False)
        left -= amount
        if any(taken):
            plan.append((*taken, *[0] * (len(sizes) - count)))
    return tuple(plan)


def _take(shares: Sequence[int], free: list[int], *, lose_rest: bool) -> tuple[int, ...]:
    """Take each scale's share out of ``free``, passing on what a scale does not have."""
    taken, rest = [], 0
    for i, share in enumerate(shares):
        wanted = share + rest
        if wanted < 0:
            raise VilaHDError(
                f"shares {tuple(shares)}: a scale would get {wanted} patches; use a larger budget"
            )
        taken.append(min(wanted, free[i]))
        rest = wanted - taken[-1]
    for i in reversed(range(len(taken))):
        back = 0 if lose_rest else min(rest, free[i] - taken[i])
        taken[i] += back
        rest -= back
    free[:] = [have - used for have, used in zip(free, taken, strict=True)]
    return tuple(taken)


def plan_passes_published(
    sizes: Sequence[int],
    split: Sequence[int],
    *,
    num_passes: int | Literal["all"] | None = None,
    num_patches: int | Literal["all"] | None = None,
    first_scales: int | None = None,
    widest_scales: int | None = None,
    rounding: Rounding = "remainder",
) -> PassPlan:
    """Plan the passes of one look exactly as the reference counts them, with its quirks.

    Args:
        sizes: patches of each high-resolution scale.
        split: patches of each scale in one full pass.
        num_passes: passes; clamped to what covers the picture.
        num_patches: patches over all passes; with ``num_passes`` it limits that one pass.
        first_scales: favour the first so many scales: the others keep one patch each, and the last also
            receives what is missing to a full pass (quirk 5 of the reference).
        widest_scales: the largest ``first_scales`` of the batch, which decides the number of passes.
        rounding: see ``Rounding``.

    Raises:
        VilaHDError: neither count is given, both are with more than one pass, or the quirk's arithmetic
            fails.
    """
    per_pass = sum(split)
    total = sum(sizes[: widest_scales or first_scales or len(sizes)])
    limit: dict[int, int] = {}
    if num_passes == "all" or num_patches == "all":
        passes = -(-total // per_pass)
    elif num_passes:
        passes = min(num_passes, -(-total // per_pass))
        if num_patches and passes > 1:
            raise VilaHDError(
                f"{num_passes} passes and {num_patches} patches contradict each other: give one of them"
            )
        if num_patches and num_patches <= per_pass:
            limit[0] = min(num_patches, total)
    elif num_patches:
        wanted = min(num_patches, total)
        passes = -(-wanted // per_pass)
        limit[passes - 1] = wanted % per_pass or per_pass
    else:
        raise VilaHDError(
            f"{num_passes} passes and {num_patches} patches: give a positive number of one of them"
        )
    free, plan = list(sizes), []
    for i in range(passes):
        shares = _share(split, limit[i], rounding) if i in limit else tuple(split)
        if first_scales is not None:
            shares = _favour_first(shares, first_scales, per_pass)
        plan.append(_take(shares, free, lose_rest=True))
    return tuple(taken for taken in plan if any(taken))


def _favour_first(shares: Sequence[int], first: int, per_pass: int) -> tuple[int, ...]:
    """Apply the reference's ``only_select_first_n_scale`` to one pass."""
    favoured = sum(shares[:first])
    if not favoured:
        raise VilaHDError(
            f"shares {tuple(shares)} leave nothing for the first {first} scale(s): use a larger budget"
        )
    # Float division first, as in the reference: the truncation depends on it.
    parts = [int(share / favoured * sum(shares)) if i < first else 1 for i, share in enumerate(shares)]
    parts[-1] += per_pass - sum(parts)
    return tuple(parts)
