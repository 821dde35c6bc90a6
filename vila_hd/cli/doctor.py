"""``vila-hd doctor``: check this installation, and the files of model folders."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable

from .. import doctor
from ..checkpoint_files import Finding, check_checkpoint
from ..errors import VilaHDError
from .models import BUNDLED
from .terminal import Steps

MARKS = {"ok": "ok  ", "note": "note", "problem": "BAD "}


def run(args: argparse.Namespace) -> int:
    """Print every finding.

    Raises:
        VilaHDError: there are problems; says how many.
    """
    sections: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("installation", doctor.check_python),
        ("required packages", doctor.check_requirements),
        ("pictures", doctor.check_pictures),
        ("devices and kernels", doctor.check_kernels),
        ("optional packages", doctor.check_optional),
    ]
    folders = [*([BUNDLED] if BUNDLED.exists() else []), *args.folder]
    sections += [(f"model {folder}", lambda folder=folder: check_checkpoint(folder)) for folder in folders]  # type: ignore[misc]
    report: list[tuple[str, list[Finding]]] = []
    with Steps(len(sections)) as steps:
        for title, check in sections:
            with steps.step(title):
                report.append((title, list(check())))
    findings = [finding for _, section in report for finding in section]
    if args.json:
        print(
            json.dumps(
                {title: [dataclasses.asdict(f) for f in section] for title, section in report}, indent=2
            )
        )
    else:
        for title, section in report:
            _print_section(title, section)
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        raise VilaHDError(f"{problems} problem(s) found: see the lines marked {MARKS['problem'].strip()}")
    return 0


def _print_section(title: str, section: list[Finding]) -> None:
    print(title)
    width = max((len(finding.topic) for finding in section), default=0)
    for finding in section:
        print(f"  {MARKS[finding.level]}  {finding.topic:<{width}}  {finding.text}")
        if finding.fix:
            print(f"  {'':4}  {'':<{width}}  -> {finding.fix}")
    print()
