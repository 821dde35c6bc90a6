"""``python -m llava_compat.data``: lint a set of rows, or look at one of them.

Exit status: 0 fine, 1 the data has problems, 2 a word of the command line to mend, 130 after Ctrl-C.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vila_hd.cli.parsers import Parser
from vila_hd.cli.terminal import print_error, run_command
from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import configure_for_terminal

from .files import iterate_records
from .formats import ReadOptions
from .problems import DataError, Record
from .registry import iterate_mixture, read_registry
from .turns import CONVENTIONS

if TYPE_CHECKING:
    from vila_hd.processing_vila_hd import VilaHDProcessor

CHECK = (
    "Read every row of a .json, .jsonl, .parquet, .arrow or .tar file, of a folder of the last three, or of "
    "a registry .yaml, and print a summary. Exit status 1 when there are problems."
)

REGISTRIES = (".yaml", ".yml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status and never raises for bad input."""

    def command() -> int:
        args = build_parser().parse_args(argv)
        configure_for_terminal()
        try:
            status: int = args.run(args)
        except DataError as error:
            if error.source is None:
                raise
            print_error(error)
            return 1
        return status

    return run_command(command)


def build_parser() -> Parser:
    """The parser. Nothing heavy is imported for ``--help``."""
    parser = Parser(
        prog="python -m llava_compat.data",
        description="Check data sets for training, and look at single samples.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="read every row and list what is wrong", description=CHECK)
    _add_set(check)
    check.add_argument("--limit", type=_count, metavar="N", help="only the first N rows")
    check.add_argument("--strict", action="store_true", help="refuse rows with keys that are not known")
    check.add_argument("--no-images", action="store_true", help="do not look at picture files")
    check.add_argument("--decode", action="store_true", help="decode every picture, not only its header")
    check.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    check.set_defaults(run=_run_check)
    show = commands.add_parser(
        "show",
        help="print one sample, with --model what of it is learned",
        description="Print sample N (from 0). With --model, what the model learns to write is green, or in "
        "[[ ]] where the output is no terminal or NO_COLOR is set.",
    )
    _add_set(show)
    show.add_argument("number", type=_count, metavar="N", help="number of the row, from 0")
    show.set_defaults(run=_run_show)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="file or folder of rows, or a registry .yaml")
    parser.add_argument(
        "--media", type=Path, metavar="DIR", help="folder of the pictures; default: that of PATH"
    )
    parser.add_argument(
        "--convention",
        choices=CONVENTIONS,
        default="registry",
        help="where pictures of LLaVA rows go: in front of the first question (registry), where <image> "
        "stands with one line feed after it (legacy), or where it stands (interleaved) (%(default)s)",
    )
    parser.add_argument("--mixture", metavar="a+b*2", help="data sets of the registry to read; default: all")
    parser.add_argument(
        "--slices", type=Path, metavar="DIR", help="folder of SUBSET/NAME.json for name@subset"
    )
    parser.add_argument("--model", metavar="M", help="'nano', a model folder or a hub id: encode rows for it")
    parser.add_argument("--template", metavar="T", help="with --model: a classic template such as vicuna_v1")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number >= 0")
    return int(text)


def iterate_set(args: argparse.Namespace) -> Iterator[tuple[Record, ReadOptions]]:
    """Every record that the command line names, with how to read it.

    Raises:
        DataError: PATH or a name of the mixture cannot be read.
    """
    path: Path = args.path
    if path.suffix.lower() in REGISTRIES:
        if args.media is not None:
            raise DataError("--media with a registry: its entries say where pictures are; leave --media out")
        registry = read_registry(path)
        mixture = args.mixture or "+".join(sorted(registry.entries))
        if not mixture:
            raise DataError(f"{path}: a registry without data sets")
        return iterate_mixture(mixture, registry, slices=args.slices)
    if args.mixture is not None or args.slices is not None:
        raise DataError("--mixture and --slices need a registry .yaml as PATH")
    folder = args.media or (path if path.is_dir() else path.parent)
    if not folder.is_dir():
        raise DataError(f"--media {str(folder)!r}: there is no such folder")
    options = ReadOptions(media=folder, convention=args.convention)
    return zip(iterate_records(path), itertools.repeat(options), strict=False)


def read_processor(args: argparse.Namespace) -> "VilaHDProcessor | None":
    """The processor of ``--model`` with ``--template``; None without ``--model``.

    Raises:
        VilaHDError: it cannot be read.
    """
    if args.model is None:
        if args.template is not None:
            raise VilaHDError("--template needs --model")
        return None
    from .processors import load_processor

    return load_processor(args.model, args.template)


def _run_check(args: argparse.Namespace) -> int:
    from .check import check_records, describe, to_json

    processor = read_processor(args)
    records = (
        (record, replace(options, strict=args.strict, check_files=not args.no_images))
        for record, options in itertools.islice(iterate_set(args), args.limit)
    )
    summary = check_records(
        records,
        processor,
        look_at_images="no" if args.no_images else "decode" if args.decode else "header",
    )
    if not summary.rows:
        raise DataError(f"{args.path}: no rows to check; give a file that holds some")
    for line in [to_json(summary, args.path)] if args.json else describe(summary, args.path):
        print(line)
    return int(summary.num_problems > 0)


def _run_show(args: argparse.Namespace) -> int:
    from .formats import make_row
    from .show import describe

    processor = read_processor(args)
    found = next(itertools.islice(iterate_set(args), args.number, None), None)
    if found is None:
        raise DataError(f"{args.path} has no row {args.number}: count from 0")
    (source, value), options = found
    if isinstance(value, DataError):
        raise value
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
    for line in describe(make_row(value, source, options), processor, colour=colour):
        print(line)
    return 0
