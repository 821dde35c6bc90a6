"""The trainings that several claims share; their stage files are in ``configs/claims``."""

from .claim import Training

FEW, MANY = 24, 96
"""Patches per look that models are trained to answer with; there are 2880."""


def split(budget: int) -> tuple[int, int]:
    """Patches of the two high-resolution scales in one pass of ``budget``, low scale first."""
    return budget // 6, budget - budget // 6


def looks(budget: int) -> str:
    """The override that trains with ``budget`` patches per look."""
    return f"looks.per_scale={list(split(budget))}"


PRETRAIN = Training(name="pretrain", config="pretrain", minutes=4)
GROUND = Training(name="ground", config="ground", after=PRETRAIN, minutes=5)
READ = Training(name="read", config="read", after=GROUND, minutes=6)
SFT = Training(name="sft", config="sft", after=READ, overrides=(looks(MANY),), minutes=5)
SFT_FEW = Training(
    name="sft_few",
    config="sft",
    after=READ,
    overrides=(looks(FEW), "data.turns=1", "data.items_per_picture=4", "looks.own_choice=0.5"),
    minutes=5,
)

ALL = (576, 2304)
"""Every patch of the two scales."""

WHOLE = Training(
    name="sft_whole",
    config="sft",
    after=SFT,
    overrides=(
        f"looks.per_scale={list(ALL)}", "looks.least_share=0.25", "max_steps=100", "global_batch_size=6",
        "micro_batch_size=1", "data.items_per_picture=1", "data.turns=4", "data.first_picture=600000",
    ),
    minutes=10,
)  # fmt: skip
"""Learns from a quarter to all of the patches of a picture in full resolution, up to 756 visual tokens."""
