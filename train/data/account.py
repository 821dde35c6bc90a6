"""What became of the rows of a run: how many were broken, too long or cut, and when that is too much."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vila_hd.errors import VilaHDError

logger = logging.getLogger(__name__)

AFTER = 100
"""Samples to see before the share of broken rows counts."""

LOGGED = 20
"""Broken rows that are logged in full; of the others, the total at the end of each hundred."""


@dataclass(frozen=True)
class Report:
    """What happened while one sample, or one batch of samples, was made."""

    samples: int = 1
    broken: tuple[str, ...] = ()
    """Why rows could not be used, with their places."""

    skipped: tuple[str, ...] = ()
    """Rows that are fine, but nothing that the stage can learn from, such as too long ones."""

    truncated: int = 0
    """Samples whose last turns were left out."""

    failure: str | None = None
    """Why there is no sample at all."""

    @classmethod
    def merge(cls, reports: Iterable["Report"]) -> "Report":
        """The report of a batch."""
        parts = list(reports)
        return cls(
            samples=sum(part.samples for part in parts),
            broken=tuple(text for part in parts for text in part.broken),
            skipped=tuple(text for part in parts for text in part.skipped),
            truncated=sum(part.truncated for part in parts),
            failure=next((part.failure for part in parts if part.failure is not None), None),
        )


class Account:
    """Adds up the reports of one process."""

    def __init__(
        self,
        max_broken: float,
        *,
        logged: int = LOGGED,
        fix: str = "python -m llava_compat.data check lists all",
    ) -> None:
        """Start to count.

        Args:
            max_broken: share of the rows that may be broken.
            logged: broken rows that are logged in full.
            fix: how to find the broken ones, for the message that ends the run.
        """
        self.max_broken = max_broken
        self.logged = logged
        self.fix = fix
        self.samples = self.broken = self.skipped = self.truncated = 0

    def take(self, report: Report) -> None:
        """Count and log what happened.

        Raises:
            VilaHDError: there is no sample, or more rows are broken than allowed.
        """
        self.samples += report.samples
        self.skipped += len(report.skipped)
        self.truncated += report.truncated
        for problem in report.broken:
            self.broken += 1
            if self.broken <= self.logged:
                logger.warning("broken row left out: %s", problem)
            elif self.broken % 100 == 0:
                logger.warning("%d broken rows left out so far; the last one: %s", self.broken, problem)
        if self.skipped == len(report.skipped) > 0:
            logger.warning("row left out: %s", report.skipped[0])
        if report.failure is not None:
            raise VilaHDError(report.failure)
        seen = max(self.samples + self.broken, AFTER)
        if self.broken > self.max_broken * seen:
            raise VilaHDError(
                f"{self.broken} broken row(s) among {self.samples + self.broken}, more than "
                f"data.max_broken={self.max_broken:g}: mend them ({self.fix}) or raise it; the last one: "
                f"{report.broken[-1]}"
            )

    def metrics(self) -> dict[str, Tensor]:
        """Shares since the start of this process."""
        rows = max(1, self.samples + self.broken + self.skipped)
        return {
            "broken": torch.tensor(self.broken / rows),
            "skipped": torch.tensor(self.skipped / rows),
            "truncated": torch.tensor(self.truncated / max(1, self.samples)),
        }
