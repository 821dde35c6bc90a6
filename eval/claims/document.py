"""``docs/claims.md``: written from the results, never by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vila_hd.errors import VilaHDError

from ..plots import save
from ..report import Cell, Column, Table
from .claim import Check, Claim, Result

COMMAND = "python -m eval claims"

HEAD = f"""# The paper's claims, in the small

Each claim of "Scaling Vision Pre-Training to 4K Resolution" (arXiv 2503.19903) measured on models that two
CPU cores train in minutes, and on the bundled one. `make claims` (`{COMMAND}`) wrote this file; `{COMMAND}
--plan` says what is left to do and how long it takes. Trained models, answers and results stay in
`runs/claims`; a run that was interrupted goes on from there, and `--only 4 7` measures single claims.

A small model on drawn scenes cannot confirm the paper's numbers, only show whether the effect appears where
it is said to come from. A claim is a list of checks, each a number with its 95 % interval: it *holds* when
the whole interval is on the right side of the bound, *does not hold* when it is on the other, and is
*undecided* otherwise. A claim is reproduced when all of its checks hold. Intervals of differences are
paired bootstraps over the same questions. They do not cover how much two trainings with different seeds
differ.
"""

SUMMARY_COLUMNS = (
    Column(key="number", title="claim"),
    Column(key="title", title="what"),
    Column(key="verdict", title="verdict"),
    Column(key="checks", title="checks that hold"),
    Column(key="minutes", title="minutes to measure", spec=".1f"),
    Column(key="training", title="core minutes to train", spec=".0f"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A claim and what is known about it."""

    claim: Claim

    result: Result | None
    """None: it was not run."""

    def summary(self) -> dict[str, Cell]:
        """Its row in the table at the top."""
        row: dict[str, Cell] = {"number": self.claim.number, "title": self.claim.title}
        if self.result is None:
            return row | {"verdict": "not run", "checks": None, "minutes": None, "training": None}
        checks = self.result.finding.checks
        held = sum(check.outcome == "holds" for check in checks)
        return row | {
            "verdict": self.result.finding.verdict,
            "checks": f"{held} of {len(checks)}",
            "minutes": self.result.minutes,
            "training": sum(self.result.training_minutes.values()) or None,
        }


def check_table(checks: Sequence[Check]) -> Table:
    """One row per check."""
    rows = tuple(
        {
            "statement": check.statement,
            "value": f"{check.value:.2f}{suffix(check)}",
            "interval": f"{check.low:.2f} - {check.high:.2f}",
            "bound": f"{'above' if check.at_least else 'below'} {check.bound:g}",
            "outcome": check.outcome,
        }
        for check in checks
    )
    columns = (
        Column(key="statement", title="check"),
        Column(key="value", title="measured"),
        Column(key="interval", title="95 % interval"),
        Column(key="bound", title="must be"),
        Column(key="outcome", title="outcome"),
    )
    return Table(columns=columns, rows=rows)


def suffix(check: Check) -> str:
    """A check's unit behind its number."""
    return check.unit if check.unit == "x" else f" {check.unit}"


def section(entry: Entry, pictures: Path, *, document: Path) -> list[str]:
    """The blocks about one claim; its plots are written into ``pictures``."""
    claim, result = entry.claim, entry.result
    blocks = [f"## {claim.number}. {claim.title}", f"The paper: {claim.paper}", f"Here: {claim.method}"]
    if result is None:
        return [*blocks, f"Not run yet: `{COMMAND} --only {claim.number}`"]
    finding = result.finding
    blocks += [f"**{finding.verdict.capitalize()}.**", check_table(finding.checks).markdown()]
    failed = [check for check in finding.checks if check.outcome != "holds" and check.why]
    if failed:
        blocks.append("What the numbers say about the checks that do not hold:")
        blocks.append("\n".join(f"- {check.statement}: {check.outcome}; {check.why}." for check in failed))
    blocks += [table.markdown() for table in finding.tables]
    if finding.charts:
        path = pictures / f"claim-{claim.number}.svg"
        save(finding.charts, path)
        blocks.append(f"![Plot of the table]({path.relative_to(document.parent).as_posix()})")
    blocks += list(finding.notes)
    if result.training_minutes:
        times = ", ".join(f"{name} {minutes:.1f}" for name, minutes in result.training_minutes.items())
        blocks.append(f"Trained, minutes of one core: {times}.")
    facts = "; ".join(f"{name}: {value}" for name, value in result.facts.items())
    return [*blocks, f"<sub>{facts}</sub>"]


def time_taken(entries: Sequence[Entry]) -> str:
    """What everything took together; trainings that claims share count once."""
    results = [entry.result for entry in entries if entry.result is not None]
    measuring = sum(result.minutes for result in results)
    trainings = {name: minutes for result in results for name, minutes in result.training_minutes.items()}
    return (
        f"In all {measuring:.0f} minutes to measure and {sum(trainings.values()):.0f} minutes of one core "
        f"for {len(trainings)} trainings, of which some serve several claims."
    )


def write_document(entries: Sequence[Entry], path: Path, *, smoke: bool = False) -> None:
    """Write the document and its plots, in a folder of the document's name beside it.

    Raises:
        VilaHDError: they cannot be written.
    """
    pictures = path.with_suffix("")
    rows = tuple(entry.summary() for entry in entries)
    blocks = [HEAD, Table(columns=SUMMARY_COLUMNS, rows=rows).markdown(), time_taken(entries)]
    if smoke:
        blocks.insert(
            1,
            "**A smoke run: models of two training steps and a handful of questions. No number here "
            "means anything.**",
        )
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            blocks += section(entry, pictures, document=path)
        path.write_text("\n\n".join(block.strip() for block in blocks) + "\n", encoding="utf-8")
    except OSError as error:
        raise VilaHDError(f"cannot write {path}: {error.strerror}; give another --document") from error
