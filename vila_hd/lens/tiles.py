"""The few numbers shown in large letters under the answer."""

from collections.abc import Sequence

from ..receipt import Look, Receipt, format_share


def answer_tiles(looks: Sequence[Look], receipt: Receipt | None) -> list[tuple[str, str]]:
    """(value, label) of the numbers under the answer."""
    summaries = [look.summary() for look in looks]
    chosen = sum(summary.num_chosen for summary in summaries)
    total = sum(count for summary in summaries for _, count in summary.chosen)
    areas = [summary.original_size[0] * summary.original_size[1] for summary in summaries]
    covered = sum(area * summary.coverage for area, summary in zip(areas, summaries, strict=True)) / sum(
        areas
    )
    noun = "the picture" if len(looks) == 1 else f"{len(looks)} pictures"
    tiles = [
        (format_share(covered), f"of {noun} seen closely"),
        (f"{chosen:,}", f"of {total:,} patches"),
        (f"{sum(summary.visual_tokens for summary in summaries):,}", "visual tokens"),
    ]
    if receipt is not None and receipt.seconds:
        tiles.append((f"{receipt.total_seconds:.2f} s", "to answer"))
    return tiles
