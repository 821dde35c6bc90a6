"""What a scene holds and where: a town on a hillside with a dozen coloured signs that each bear one mark."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from ..errors import VilaHDError
from . import language
from .marks import PANEL_SIDES, TIERS, Colour, Tier, answers
from .town import PLACES, TIMES, Place, Placement, Slot, Time, Town, plan_town

Split = Literal["train", "validation", "test"]
Box = tuple[int, int, int, int]

SPLITS: Mapping[Split, range] = MappingProxyType(
    {
        "train": range(0, 1_000_000_000),
        "validation": range(1_000_000_000, 1_100_000_000),
        "test": range(1_100_000_000, 1_200_000_000),
    }
)
"""Seeds of each split. No seed is in two of them."""

COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (214, 28, 38),
        "orange": (246, 130, 10),
        "yellow": (246, 210, 20),
        "green": (12, 148, 62),
        "cyan": (24, 190, 214),
        "blue": (26, 82, 216),
        "purple": (130, 44, 172),
        "pink": (246, 118, 182),
        "white": (246, 246, 244),
        "black": (18, 18, 22),
    }
)
"""Colours of plates and inks. Nothing else in a picture is as saturated, as white or as black."""

COLOUR_PAIRS: tuple[tuple[str, str], ...] = (
    ("red", "white"),
    ("red", "black"),
    ("orange", "white"),
    ("orange", "black"),
    ("yellow", "black"),
    ("yellow", "red"),
    ("green", "white"),
    ("green", "yellow"),
    ("cyan", "white"),
    ("cyan", "black"),
    ("blue", "white"),
    ("blue", "yellow"),
    ("purple", "white"),
    ("purple", "yellow"),
    ("pink", "white"),
    ("pink", "black"),
)
"""(plate, ink) of signs. Few pairs on purpose: only the mark tells the same pair of two pictures apart."""

_SIZES = ((PANEL_SIDES[0], 16, 23), (PANEL_SIDES[1], 15, 20))
"""Choices of (side of the panel, least border, border bound) in pixels."""
CELLS = 16
"""No two signs touch one cell of this many rows and columns: the low-resolution grid of the bundled model."""
_TRIES = 50
"""How often signs are hung anew when the first ones left no room for the last."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What all scenes of one set have in common."""

    size: tuple[int, int] = (3840, 2160)
    """Width and height in pixels, at least 960 x 540."""

    num_objects: int = 12
    """Signs in each scene, at most one per colour pair."""

    tiers: Mapping[Tier, float] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(TIERS, 1.0)))
    """Share of each tier of marks; they need not add up to 1."""

    def __post_init__(self) -> None:
        width, height = self.size
        if width < 960 or height < 540 or width > 16384 or height > 16384:
            raise VilaHDError(f"scene size {width}x{height}: use 960x540 to 16384x16384 pixels")
        if not 1 <= self.num_objects <= len(COLOUR_PAIRS):
            raise VilaHDError(
                f"num_objects={self.num_objects}: use 1 to {len(COLOUR_PAIRS)} signs (colour pairs)"
            )
        unknown = sorted(set(self.tiers) - set(TIERS))
        if unknown:
            raise VilaHDError(f"unknown tier {unknown[0]!r}: use some of {', '.join(TIERS)}")
        if any(share < 0 for share in self.tiers.values()) or not sum(self.tiers.values()) > 0:
            raise VilaHDError(f"tiers={dict(self.tiers)}: use shares >= 0 with a positive sum")


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One sign: a framed square plate with a panel that bears one mark."""

    box: Box
    """``(x1, y1, x2, y2)`` of the plate with its frame, in pixels, the ends excluded."""

    plate: str
    ink: str
    tier: Tier
    answer: str
    """What the mark says: one word, two for a code."""

    caption: str
    query: str
    """The caption without the mark: enough to find the sign, not enough to guess what is on it."""

    question: str
    panel: int
    """Side of the square panel in pixels."""

    phase: tuple[int, int]
    """Shift of the panel's pattern in pixels."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything about one picture, before it is drawn."""

    seed: int
    size: tuple[int, int]
    time: Time
    place: Place
    objects: tuple[SceneObject, ...]
    global_caption: str
    placements: tuple[Placement, ...]
    """Scenery in drawing order, far to near."""

    slots: tuple[Slot, ...] = ()
    """Where each sign is mounted, in the order of ``objects``."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Boxes of all signs."""
        return tuple(item.box for item in self.objects)


def split_seeds(split: Split, count: int, *, start: int = 0) -> list[int]:
    """Return ``count`` seeds of a split from its ``start``-th on.

    Raises:
        VilaHDError: the split is unknown or has fewer seeds.
    """
    if split not in SPLITS:
        raise VilaHDError(f"unknown split {split!r}: use {', '.join(SPLITS)}")
    seeds = SPLITS[split]
    if count < 0 or start < 0 or start + count > len(seeds):
        raise VilaHDError(f"seeds {start} to {start + count} of split {split!r}: it has {len(seeds)}")
    return list(seeds[start : start + count])


def make_scene(seed: int, config: SceneConfig | None = None) -> Scene:
    """Return the scene of this seed; equal on every machine and in every process.

    Raises:
        VilaHDError: the seed is negative or the signs do not fit into the picture.
    """
    config = config or SceneConfig()
    if seed < 0:
        raise VilaHDError(f"scene seed {seed}: use 0 or more")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    width, height = config.size
    time: Time = TIMES[int(rng.integers(len(TIMES)))]
    place: Place = PLACES[int(rng.integers(len(PLACES)))]
    town = plan_town(rng, (width, height), time, place)
    pairs = [COLOUR_PAIRS[index] for index in rng.permutation(len(COLOUR_PAIRS))[: config.num_objects]]
    tiers = _choose_tiers(rng, config)
    mounted = _mount(rng, town, config)
    objects = tuple(
        _make_object(rng, pair, tier, box, panel)
        for pair, tier, (box, panel, _) in zip(pairs, tiers, mounted, strict=True)
    )
    return Scene(
        seed=seed,
        size=config.size,
        time=time,
        place=place,
        objects=objects,
        global_caption=language.global_caption(time, place, _telling_counts(objects)),
        placements=town.populate(rng, [box for box, _, _ in mounted]),
        slots=tuple(slot for _, _, slot in mounted),
    )


def _choose_tiers(rng: np.random.Generator, config: SceneConfig) -> list[Tier]:
    known = [tier for tier in TIERS if config.tiers.get(tier, 0) > 0]
    ends = np.cumsum([config.tiers[tier] for tier in known])
    draws = rng.random(config.num_objects) * ends[-1]
    return [known[min(int(index), len(known) - 1)] for index in np.searchsorted(ends, draws, side="right")]


def _make_object(
    rng: np.random.Generator, pair: tuple[str, str], tier: Tier, box: Box, panel: int
) -> SceneObject:
    known = answers(tier)
    answer = known[int(rng.integers(len(known)))]
    plate, ink = pair
    phase = (int(rng.integers(512)), int(rng.integers(512)))
    return SceneObject(
        box=box,
        plate=plate,
        ink=ink,
        tier=tier,
        answer=answer,
        panel=panel,
        phase=phase,
        caption=language.caption(plate, ink, tier, answer),
        query=language.caption(plate, ink, tier, None),
        question=language.mark_question(plate, ink, tier, int(rng.integers(len(language.MARK_QUESTIONS)))),
    )


def _mount(rng: np.random.Generator, town: Town, config: SceneConfig) -> list[tuple[Box, int, Slot]]:
    """Choose a place and a size for each sign so that no two share a cell of the coarse grid."""
    most = 0
    for _ in range(_TRIES):
        mounted = _mount_while_there_is_room(rng, town, config)
        if len(mounted) == config.num_objects:
            return mounted
        most = max(most, len(mounted))
    width, height = config.size
    raise VilaHDError(
        f"num_objects={config.num_objects}: only {most} signs fit into {width}x{height} pixels; "
        "use fewer signs or a larger picture"
    )


def _mount_while_there_is_room(
    rng: np.random.Generator, town: Town, config: SceneConfig
) -> list[tuple[Box, int, Slot]]:
    width, height = config.size
    taken = np.zeros((CELLS, CELLS), bool)
    mounted: list[tuple[Box, int, Slot]] = []
    # Weighted sampling without replacement: the largest u ** (1 / weight) come first.
    keys = rng.random(len(town.slots)) ** (1 / np.array([slot.weight for slot in town.slots]))
    for index in np.argsort(-keys, kind="stable"):
        slot = town.slots[index]
        panel, low, high = _SIZES[int(rng.integers(len(_SIZES)))]
        side = panel + 2 * int(rng.integers(low, high))
        x1 = slot.x - side // 2 + int(rng.integers(-8, 9))
        y1 = slot.y - side // 2 + int(rng.integers(-6, 7))
        if x1 < 24 or y1 < 24 or x1 + side > width - 24 or y1 + side > height - 24:
            continue
        rows = slice(y1 * CELLS // height, (y1 + side - 1) * CELLS // height + 1)
        columns = slice(x1 * CELLS // width, (x1 + side - 1) * CELLS // width + 1)
        if taken[rows, columns].any():
            continue
        taken[rows, columns] = True
        mounted.append(((x1, y1, x1 + side, y1 + side), panel, slot))
        if len(mounted) == config.num_objects:
            break
    return mounted


def _telling_counts(objects: tuple[SceneObject, ...]) -> list[tuple[str, int]]:
    """Three plate colours that tell this scene from others: the rarest, or the commonest if few are there."""
    names = [name for name in COLOURS if any(name == plate for plate, _ in COLOUR_PAIRS)]
    counts = {name: sum(item.plate == name for item in objects) for name in names}
    rare_first = len(objects) > len(names)
    ranked = sorted(names, key=lambda name: counts[name] if rare_first else -counts[name])
    return [(name, counts[name]) for name in ranked[:3]]
