"""What the engine is asked, and what it says: plain data without HTTP or tensors of a batch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..options import HighResOptions
from ..ps3.outputs import LowRes
from ..receipt import Look, Receipt


@dataclass(eq=False)
class Picture:
    """A picture as the tower sees it, with what is known about it already."""

    key: bytes
    """Equal for equal pictures: a digest of the file."""

    pixels: Tensor
    """``(3, rows, columns)``"""

    size: tuple[int, int]
    """(width, height) as opened, after EXIF rotation."""

    frame: tuple[int, int]
    """(width, height) of what places are relative to; larger than ``size`` where pictures are padded."""

    offset: tuple[int, int]
    """(x, y) of the picture in its frame."""

    low_res: LowRes | None = field(default=None, repr=False)
    """Its low-resolution pass, once an engine has run it."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.pixels.nbytes if self.low_res is None else self.low_res.nbytes


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is picked."""

    max_new_tokens: int
    temperature: float = 0.0
    """0: always the likeliest token."""

    top_p: float = 1.0
    seed: int | None = None
    """None: another answer every time."""

    stop: tuple[str, ...] = ()
    """Texts that end an answer and are no part of it."""

    top_logprobs: int | None = None
    """Likeliest tokens to report for every token; None: no probabilities at all."""

    json_schema: dict[str, Any] | None = None
    """The answer is JSON of this schema; None: any text."""


@dataclass(frozen=True, eq=False)
class Question:
    """A conversation that waits for its answer."""

    ids: list[int]
    """The prompt, low-resolution placeholders included."""

    pictures: tuple[Picture, ...]
    """In the order of the prompt."""

    high_res: HighResOptions
    """Its boxes, one list per picture, are in pixels of the pictures' frames."""

    sampling: Sampling
    explain: bool = False
    """Whether the end of the answer says where was looked."""


@dataclass(frozen=True)
class TokenChance:
    """A token and the logarithm of its probability, before temperature and ``top_p``."""

    token: str
    logprob: float


@dataclass(frozen=True)
class ChosenToken(TokenChance):
    """A token of an answer."""

    top: tuple[TokenChance, ...] = ()
    """The likeliest ones in its place, the likeliest first."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer."""

    text: str
    tokens: tuple[ChosenToken, ...] = ()
    """Where asked for."""


@dataclass(frozen=True, eq=False)
class Finished:
    """The end of an answer."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    """Visual ones included."""

    visual_tokens: int
    new_tokens: int
    looks: tuple[Look, ...] = ()
    """One per picture, where asked for."""

    receipt: Receipt | None = None
    """Where asked for. Its seconds are those of the batch that the question was read with."""


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    error: Exception
    """A ``VilaHDError`` where the question is to blame."""


Event = Piece | Finished | Failed
"""Any number of pieces, then one of the others."""
