"""What a claim is made of, and what its measurement found."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vila_hd.errors import VilaHDError
from vila_hd.utils.config import from_dict

from ..plots import Chart
from ..report import Cell, Table

if TYPE_CHECKING:
    from .workshop import Workshop

Outcome = Literal["holds", "does not hold", "undecided"]
Verdict = Literal["reproduced", "reproduced in part", "not reproduced", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One stage that is trained for claims. Claims that name the same training share it."""

    name: str

    config: str
    """Stage file in ``configs/claims``, without ``.yaml``."""

    after: "Training | None" = None
    """The training whose model this one starts from; None: the model file of the stage."""

    overrides: tuple[str, ...] = ()
    """``key=value``, as for ``python -m train --set``."""

    minutes: float
    """What it takes on one core, for the plan."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One sentence of a claim as a number with its 95 % interval, and the bound that it must be beyond."""

    statement: str

    value: float
    low: float
    high: float

    bound: float = 0.0
    at_least: bool = True
    """Whether the value must be above ``bound``; False: below."""

    unit: str = "points"

    why: str = ""
    """What the numbers say about the reason, for when it does not hold."""

    @property
    def outcome(self) -> Outcome:
        """Decided only where the whole interval lies on one side of the bound."""
        above, below = self.low > self.bound, self.high < self.bound
        if above or below:
            return "holds" if above == self.at_least else "does not hold"
        return "undecided"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured."""

    checks: tuple[Check, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Reproduced when all checks hold; not when none holds and one is decided against it."""
        outcomes = [check.outcome for check in self.checks]
        if all(outcome == "holds" for outcome in outcomes):
            return "reproduced"
        if "holds" in outcomes:
            return "reproduced in part"
        return "not reproduced" if "does not hold" in outcomes else "undecided"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper and how it is measured here."""

    number: int

    title: str

    paper: str
    """What the paper reports."""

    method: str
    """What is done here instead."""

    measure: "Callable[[Workshop], Finding]"

    trainings: tuple[Training, ...] = ()
    """Those that ``measure`` asks for the models of; what they start from is trained as well."""

    bundled: bool = False
    """Whether ``measure`` asks the bundled model."""

    minutes: float
    """What ``measure`` takes on two cores, for the plan."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finding with its circumstances, as it is kept on disk."""

    number: int

    key: str
    """Stands for everything that the numbers depend on."""

    finding: Finding

    minutes: float
    """Wall time of the measurement, without trainings and without what was answered in earlier runs."""

    training_minutes: dict[str, float]
    """Processor time of the trainings by name."""

    facts: dict[str, Cell]
    """Machine, versions, date."""

    def write(self, path: Path) -> None:
        """Write it as JSON; the file appears only when it is complete.

        Raises:
            VilaHDError: it cannot be written.
        """
        temporary = path.with_name(path.name + ".part")
        try:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise VilaHDError(f"cannot write {path}: {error.strerror}; give another --out folder") from error

    @classmethod
    def read(cls, path: Path) -> "Result | None":
        """What ``write`` wrote; None when there is no such file.

        Raises:
            VilaHDError: it holds something else.
        """
        try:
            return from_dict(cls, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise VilaHDError(
                f"{path} cannot be read ({error}): remove it, and it is measured again"
            ) from error
