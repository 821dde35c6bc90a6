"""Where the scenery of a town stands: rows of houses on a hillside, one street in front of each row."""

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np

Time = Literal["morning", "noon", "evening", "night"]
Place = Literal["sea", "hills", "mountains"]
TIMES: tuple[Time, ...] = get_args(Time)
PLACES: tuple[Place, ...] = get_args(Place)

Roof = Literal["gable", "hip", "flat", "mansard", "step"]
ROOFS: tuple[Roof, ...] = get_args(Roof)

ROW_PITCH = 560
"""Pixels from one street to the next, further down the hill."""

STREET_HEIGHT = 130
GROUND_FLOOR = 132
FLOOR = 114
BAY = 132
"""Width of a wall with one window; a sign on a wall covers one bay of one floor."""

HOUSES = 28
TALL_HOUSES = 10
KINDS = {
    "tree": 8,
    "bush": 6,
    "person": 16,
    "car": 8,
    "cloud": 6,
    "cat": 5,
    "dog": 4,
    "bicycle": 4,
    "bench": 1,
    "bird": 3,
    "boat": 3,
    "lamp": 1,
}
"""How many different drawings there are of each thing."""

Box = tuple[int, int, int, int]


class Placement(NamedTuple):
    """One piece of scenery."""

    kind: str
    variant: int
    x: int
    """Left edge in pixels."""

    y: int
    """Lower edge in pixels for everything that stands, upper edge for strips of ground and sky."""


class Slot(NamedTuple):
    """A place where a sign can be mounted."""

    x: int
    y: int
    """Centre of the sign in pixels."""

    mount: Literal["wall", "pole", "roof", "balloon"]
    foot: int
    """y of what bears the sign: of the ground, of the roof or of the balloon's lower end."""

    weight: float


@dataclass(frozen=True, kw_only=True)
class House:
    """The plan of one house; drawn by ``scenery.draw_house``."""

    bays: int
    floors: int
    roof: Roof
    roof_height: int
    wall_tone: int
    roof_tone: int
    shop: bool
    seed: int

    @property
    def width(self) -> int:
        """Width of the walls in pixels; the roof overhangs by ``margin`` on both sides."""
        return self.bays * BAY + 20

    @property
    def wall_height(self) -> int:
        """From the street to the eaves, in pixels."""
        return GROUND_FLOOR + (self.floors - 1) * FLOOR

    @property
    def margin(self) -> int:
        """Overhang of the roof in pixels."""
        return 10


@cache
def house_plan(variant: int) -> House:
    """Plan of house number ``variant``; those from ``HOUSES`` on are tall ones for the furthest row."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((41, variant))))
    tall = variant >= HOUSES
    roof = ROOFS[variant % len(ROOFS)]
    bays = int(rng.integers(1, 4)) if not tall else int(rng.integers(1, 3))
    heights = {"flat": 26, "gable": 74 + 22 * bays, "hip": 84, "mansard": 90, "step": 70 + 20 * bays}
    return House(
        bays=bays,
        floors=int(rng.integers(4, 6)) if tall else 2 + int(rng.random() < 0.6),
        roof=roof,
        roof_height=heights[roof],
        wall_tone=int(rng.integers(64)),
        roof_tone=int(rng.integers(64)),
        shop=bool(rng.random() < 0.6),
        seed=int(rng.integers(1 << 30)),
    )


@dataclass(frozen=True)
class Town:
    """The houses of a picture and the places for signs among them."""

    size: tuple[int, int]
    bases: tuple[int, ...]
    """y of the foot of each row of houses, far to near."""

    backdrop: tuple[Placement, ...]
    rows: tuple[tuple[Placement, ...], ...]
    slots: tuple[Slot, ...]

    def populate(self, rng: np.random.Generator, boxes: list[Box]) -> tuple[Placement, ...]:
        """Add gardens, lamps, people and cars that leave the signs free; all scenery in drawing order."""
        width = self.size[0]
        placed = list(self.backdrop)
        for row, (base, houses) in enumerate(zip(self.bases, self.rows, strict=True)):
            placed.append(Placement("street", row, int(rng.integers(width)), base))
            if row:
                placed.extend(_garden(rng, width, base))
            placed.extend(houses)
            placed.extend(_street_life(rng, width, base, boxes))
        return tuple(placed)


def plan_town(rng: np.random.Generator, size: tuple[int, int], time: Time, place: Place) -> Town:
    """Build the rows of houses and list every place where a sign could hang."""
    width, height = size
    rows = max(1, round((height - 480) / ROW_PITCH))
    bases = tuple(height - STREET_HEIGHT - (rows - 1 - row) * ROW_PITCH for row in range(rows))
    slots: list[Slot] = []
    streets = tuple(_row_of_houses(rng, width, base, row == 0, slots) for row, base in enumerate(bases))
    for base in bases:
        x = int(rng.integers(150, 500))
        while x < width - 100:
            slots.append(Slot(x, base - 112, "pole", base + 26, 3.0))
            x += int(rng.integers(500, 1100))
    backdrop = [
        Placement(f"sky-{time}-{place}", bases[0], int(rng.integers(width)), 0),
        *_air(rng, width, bases[0]),
    ]
    if place == "sea":
        for _ in range(width // 900):
            y = bases[0] - int(rng.integers(205, 262))
            backdrop.append(_thing(rng, "boat", int(rng.integers(0, width)), y))
    if bases[0] > 760:
        for share in (0.2, 0.5, 0.8):
            x = int((share + 0.1 * (rng.random() - 0.5)) * width)
            y = int(rng.integers(310, max(311, bases[0] - 540)))
            slots.append(Slot(x, y, "balloon", y - 90, 25.0))
    return Town(size, bases, tuple(backdrop), streets, tuple(slots))


def _row_of_houses(
    rng: np.random.Generator, width: int, base: int, tall: bool, slots: list[Slot]
) -> tuple[Placement, ...]:
    houses: list[Placement] = []
    x = -int(rng.integers(20, 160))
    while x < width:
        variant = int(rng.integers(HOUSES + (TALL_HOUSES if tall else 0)))
        plan = house_plan(variant)
        houses.append(Placement("house", variant, x - plan.margin, base))
        for floor in range(1, plan.floors):
            y = base - GROUND_FLOOR - (floor - 1) * FLOOR - FLOOR // 2
            slots.extend(Slot(x + 10 + bay * BAY + BAY // 2, y, "wall", y, 1.0) for bay in range(plan.bays))
        if plan.roof == "flat":
            top = base - plan.wall_height - plan.roof_height
            slots.append(Slot(x + plan.width // 2, top - 76, "roof", top, 4.0))
        x += plan.width + int(rng.choice((0, 2, 30, 90, 150)))
    return tuple(houses)


def _thing(rng: np.random.Generator, kind: str, x: int, y: int) -> Placement:
    return Placement(kind, int(rng.integers(KINDS[kind])), x, y)


def _air(rng: np.random.Generator, width: int, horizon: int) -> list[Placement]:
    """Clouds and birds."""
    lowest = max(101, horizon - 560)
    clouds = [
        _thing(rng, "cloud", int(rng.integers(-200, width - 100)), int(rng.integers(100, lowest)))
        for _ in range(width // 640)
    ]
    x, y = int(rng.integers(width)), int(rng.integers(60, lowest))
    birds = [
        _thing(rng, "bird", x + int(rng.integers(-220, 220)), y + int(rng.integers(-60, 60)))
        for _ in range(int(rng.integers(3, 8)))
    ]
    return clouds + birds


def _garden(rng: np.random.Generator, width: int, base: int) -> list[Placement]:
    """Bushes and trees on the slope behind a row of houses, far to near."""
    plants = [
        _thing(
            rng,
            "bush" if rng.random() < 0.7 else "tree",
            int(rng.integers(-60, width)),
            base - int(rng.integers(20, 300)),
        )
        for _ in range(width // 190)
    ]
    return sorted(plants, key=lambda plant: plant.y)


def _street_life(rng: np.random.Generator, width: int, base: int, boxes: list[Box]) -> list[Placement]:
    """Trees and lamps at the houses, people on the pavements, cars on the road; nearer things later."""

    def is_free(x1: int, x2: int, top: int) -> bool:
        return not any(
            x1 < right + 12 and left - 12 < x2 and top < bottom and upper < base
            for left, upper, right, bottom in boxes
        )

    life: list[Placement] = []
    for kind, wide, tall, gap in (
        ("tree", 150, 250, 420),
        ("lamp", 40, 200, 640),
        ("bench", 100, 60, 1500),
        ("bicycle", 92, 60, 1700),
    ):
        x = int(rng.integers(-60, gap))
        while x < width:
            if is_free(x, x + wide, base - tall):
                life.append(_thing(rng, kind, x, base + 12))
            x += int(rng.integers(gap // 2, gap * 3 // 2))
    walkers = ["person"] * int(width * rng.uniform(0.003, 0.006)) + ["dog", "cat"] * int(rng.integers(1, 3))
    walking = [
        _thing(rng, kind, int(rng.integers(width)), base + int(rng.integers(16, 40))) for kind in walkers
    ]
    life += sorted((one for one in walking if is_free(one.x, one.x + 40, one.y - 90)), key=lambda one: one.y)
    x = int(rng.integers(-100, 500))
    while x < width:
        life.append(_thing(rng, "car", x, base + 94))
        x += int(rng.integers(260, 1200))
    return life
