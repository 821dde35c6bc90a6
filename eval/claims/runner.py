"""Runs claims: trains what they need, measures what is not measured yet, writes the document."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vila_hd.errors import VilaHDError

from ..answering import fingerprint
from ..report import Column, Report, Table, machine_facts
from ..runner import checkout
from .ablations import ABLATION
from .claim import Claim, Result, Training
from .cost import COST
from .document import SUMMARY_COLUMNS, Entry, write_document
from .encoders import ENCODER
from .looks import NANO, RESOLUTION, SELECTION, TEST_TIME
from .pruning import PRUNING
from .training import Trainer, in_order, say
from .workshop import SMOKE, Effort, Workshop

CLAIMS: tuple[Claim, ...] = (ENCODER, RESOLUTION, TEST_TIME, SELECTION, PRUNING, ABLATION, COST)


@dataclass(frozen=True, kw_only=True)
class ClaimsRun:
    """What to do, and where results are kept."""

    out: Path

    only: tuple[int, ...] = ()
    """Numbers of claims; empty: all."""

    document: Path | None = None
    """The file that is written from the results; None: ``claims.md`` in ``out``."""

    cores: int = 2
    """Trainings, and processes that answer, at a time; each has one thread."""

    smoke: bool = False

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise VilaHDError(f"--cores {self.cores}: use 1 or more")
        numbers = [claim.number for claim in CLAIMS]
        unknown = [number for number in self.only if number not in numbers]
        if unknown:
            raise VilaHDError(f"--only {unknown[0]}: there are {', '.join(map(str, numbers))}")

    @property
    def chosen(self) -> tuple[Claim, ...]:
        """The claims to measure."""
        return tuple(claim for claim in CLAIMS if not self.only or claim.number in self.only)

    @property
    def effort(self) -> Effort:
        """How much is measured."""
        return SMOKE if self.smoke else Effort()

    @property
    def trainer(self) -> Trainer:
        """What trains."""
        return Trainer(out=self.out, smoke=self.smoke, processes=self.cores)

    def result_path(self, claim: Claim) -> Path:
        """File of a claim's result."""
        return self.out / f"claim-{claim.number}.json"

    def key(self, claim: Claim) -> str:
        """Stands for everything that a claim's numbers depend on but the code."""
        parts = [
            asdict(self.effort),
            *([fingerprint(NANO)] if claim.bundled else []),
            claim.method,
            *map(self.trainer.key, claim.trainings),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def stored(self, claim: Claim) -> Result | None:
        """The result of an earlier run, if it is of the same models and effort."""
        result = Result.read(self.result_path(claim))
        return result if result is not None and result.key == self.key(claim) else None


def plan_report(run: ClaimsRun, *, command: str) -> Report:
    """What a run would do, and about how long it takes; nothing is run."""
    trainer = run.trainer
    plan = [
        (f"claim {claim.number}: {claim.title}", claim.minutes, run.stored(claim) is not None)
        for claim in run.chosen
    ]
    plan += [
        (f"training {training.name}", training.minutes / run.cores, trainer.is_done(training))
        for training in needed(run.chosen)
    ]
    rows = tuple({"what": what, "minutes": m, "state": "done" if done else "to do"} for what, m, done in plan)
    left = sum(minutes for _, minutes, done in plan if not done)
    columns = (
        Column(key="what", title="what"),
        Column(key="minutes", title=f"minutes with {run.cores} cores", spec=".0f"),
        Column(key="state", title="state"),
    )
    table = Table(columns=columns, rows=rows)
    return Report(command=command, facts={}, tables=(table,), notes=(f"To do: about {left:.0f} minutes.",))


def needed(claims: Sequence[Claim]) -> list[Training]:
    """All trainings of some claims, in order."""
    return in_order(training for claim in claims for training in claim.trainings)


def run_claims(run: ClaimsRun, *, command: str) -> Report:
    """Measure the claims that are not measured yet and write the document.

    Every claim is written down as soon as it is measured, and the document after each.

    Raises:
        VilaHDError: a training or a measurement failed; what was done before is kept.
    """
    try:
        run.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VilaHDError(f"cannot make {run.out}: {error.strerror}; give another --out folder") from error
    todo = [claim for claim in run.chosen if run.stored(claim) is None]
    for claim in run.chosen:
        if claim not in todo:
            say(f"claim {claim.number}: measured already ({run.result_path(claim)})")
    # Claims that train nothing come first; all trainings together keep every core busy.
    for claims in ([c for c in todo if not c.trainings], [c for c in todo if c.trainings]):
        models = run.trainer.run([training for claim in claims for training in claim.trainings])
        for claim in claims:
            measure(run, claim, models, command).write(run.result_path(claim))
            document(run, command)
    return document(run, command)


def measure(run: ClaimsRun, claim: Claim, models: Mapping[str, Path], command: str) -> Result:
    """Measure a claim with the models that were trained for it."""
    trainer = run.trainer
    say(f"claim {claim.number}: {claim.title}")
    workshop = Workshop(out=run.out, effort=run.effort, cores=run.cores, models=models)
    started = time.monotonic()
    finding = claim.measure(workshop)
    minutes = (time.monotonic() - started) / 60
    say(f"claim {claim.number}: {finding.verdict}, measured in {minutes:.1f} min")
    return Result(
        number=claim.number,
        key=run.key(claim),
        finding=finding,
        minutes=minutes,
        training_minutes={t.name: trainer.minutes(t) for t in needed([claim])},
        facts={
            "date": time.strftime("%Y-%m-%d"),
            "command": command,
            **machine_facts(),
            "checkout": checkout(),
            **({"bundled model": fingerprint(NANO)} if claim.bundled else {}),
            "cores": run.cores,
        },
    )


def document(run: ClaimsRun, command: str) -> Report:
    """Write the document about all claims that there are results of, and return a summary."""
    entries = [Entry(claim=claim, result=run.stored(claim)) for claim in CLAIMS]
    path = run.document or run.out / "claims.md"
    write_document(entries, path, smoke=run.smoke)
    rows = tuple(entry.summary() for entry in entries)
    return Report(
        command=command, facts={"document": str(path)}, tables=(Table(columns=SUMMARY_COLUMNS, rows=rows),)
    )
