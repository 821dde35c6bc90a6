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


PRETRAIN = Training(name="pretrain", config="pretrain", minutes=10)
ALIGN = Training(name="align", config="align", after=PRETRAIN, minutes=5)
SFT = Training(name="sft", config="sft", after=ALIGN, overrides=(looks(MANY),), minutes=9)
SFT_FEW = Training(name="sft_few", config="sft", after=ALIGN, overrides=(looks(FEW),), minutes=7)
