"""``python -m llava_compat.convert SRC DST``: model folders from one layout into another.

Exit status: 0 fine, 2 something to mend (one line ``error: ...`` on stderr), 130 after Ctrl-C. A conversion
that does not end leaves nothing behind.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vila_hd.checkpoint_files import read_json
from vila_hd.cli.parsers import Parser
from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import configure_for_terminal

from .folders import fetch, is_published

if TYPE_CHECKING:
    import torch

    from .checkpoint import Checkpoint
    from .writing import Stored

DESCRIPTION = """Convert a model folder.

SRC is a folder or hub id in the published VILA-HD layout (llm/, vision_tower/, mm_projector/), a folder of
LoRA or DoRA weights for such a model (with --base), or a folder in our own layout; 'nano' is the bundled
model. DST is a new or empty folder.

  --to vila-hd   our own layout, for vila_hd.load       (default for published folders and LoRA)
  --to vila      the published VILA-HD layout           (default for our folders)
  --to ps3       the vision tower alone, a PS3 folder

Weights are converted one tensor at a time. Published -> ours -> published gives the same tensors; ours ->
published -> ours is the identity.
"""

TARGETS = ("vila", "vila-hd", "ps3")
LABELS = {
    "vila": "the published VILA-HD layout",
    "vila-hd": "our layout",
    "ps3": "a PS3 folder, the tower alone",
}

COLUMNS = ("source", "target", "shape", "stored_dtype", "dtype")
"""Columns of the report, which is tab-separated."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status and never raises for bad input."""

    def command() -> int:
        args = build_parser().parse_args(argv)
        configure_for_terminal()
        return run(args)

    return run_command(command)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m llava_compat.convert",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("src", metavar="SRC", help="folder or hub id to read")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to write; must not exist, or be empty")
    parser.add_argument("--to", choices=TARGETS, help="layout to write (default: see above)")
    parser.add_argument(
        "--base", metavar="MODEL", help="for LoRA weights: folder or hub id of the whole model"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: as they are stored)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and report, write no model")
    parser.add_argument(
        "--report", metavar="FILE", help="write one line per tensor (tab-separated); '-' is the terminal"
    )
    parser.add_argument(
        "--extensions",
        action="store_true",
        help="with --to vila or ps3: also write models that the published code cannot run",
    )
    published = parser.add_argument_group("what published folders do not say")
    published.add_argument("--chat-template", metavar="FILE", type=Path, help="template for texts (Jinja)")
    published.add_argument(
        "--budget-rounding", choices=("floor", "remainder"), help="floor: as in ps3-torch up to 0.1.3"
    )
    published.add_argument(
        "--num-attention-heads", type=int, metavar="N", help="of the tower, if its trunk's name is unknown"
    )
    hub = parser.add_argument_group("hub")
    hub.add_argument("--revision", metavar="NAME", help="branch, tag or commit of SRC")
    hub.add_argument("--offline", action="store_true", help="never use the network")
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was done.

    Raises:
        VilaHDError: SRC cannot be read, DST not be written, or the layout cannot hold the model.
    """
    import tempfile

    from vila_hd.cli.models import quieten_transformers

    from .new_folder import new_folder, require_new, require_space
    from .writing import write_weights

    quieten_transformers()
    dst: Path = args.dst.expanduser()
    require_new(dst)
    report = None if args.report in (None, "-") else Path(args.report).expanduser()
    if report is not None and report.exists():
        raise VilaHDError(f"--report {report}: exists already; name a new file")
    checkpoint, kind = read_source(args)
    to = args.to or ("vila-hd" if kind == "vila" else "vila")
    dtype = _dtype(args.dtype)
    if args.dry_run:
        with tempfile.TemporaryDirectory() as place:
            stored = prepare(checkpoint, Path(place), to, dtype, dst.name, extensions=args.extensions)
        size = _size(stored, dtype)
        require_space(dst, size)
    else:
        with new_folder(dst) as partial:
            stored = prepare(checkpoint, partial, to, dtype, dst.name, extensions=args.extensions)
            size = _size(stored, dtype)
            require_space(dst, size)
            with tqdm(
                total=size, unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()
            ) as bar:
                write_weights(partial, stored, dtype, bar.update)
    if args.report is not None:
        _write_report(report, describe(stored, dtype))
    count = sum(len(tensors) for tensors in stored.values())
    verb = "would be written" if args.dry_run else "written"
    print(f"{checkpoint.label}: {LABELS[kind]}, {len(checkpoint.tensors)} tensors")
    for source in checkpoint.dropped:
        print(f"  not used: {source}")
    print(f"{dst}: {LABELS[to]}, {count} tensors, {tqdm.format_sizeof(size, 'B')} {verb}")
    return 0


def read_source(args: argparse.Namespace) -> "tuple[Checkpoint, str]":
    """The checkpoint that the command line names, and the kind of its layout, one of ``TARGETS``.

    Raises:
        VilaHDError: there is none, or it is damaged.
    """
    from vila_hd.cli.models import BUNDLED

    from .checkpoint import ReadOptions, read_ours
    from .checkpoints import read_checkpoint

    folder = BUNDLED if args.src == "nano" else Path(args.src).expanduser()
    if not folder.is_dir():
        if args.src.count("/") != 1 or args.src.startswith((".", "/", "~")):
            raise VilaHDError(f"{args.src}: no such folder; use a model folder or a hub id like owner/name")
        folder = fetch(args.src, revision=args.revision, local_files_only=args.offline)
    if is_published(folder):
        options = ReadOptions(
            chat_template=_read_template(args.chat_template),
            budget_rounding=args.budget_rounding,
            num_attention_heads=args.num_attention_heads,
        )
        return read_checkpoint(folder, base=args.base, options=options, local_files_only=args.offline), "vila"
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "vila_hd":
        hint = "; vila-hd compose makes a model of a tower" if str(kind).startswith("ps3") else ""
        raise VilaHDError(
            f"{folder}: model_type is {kind!r}: neither a published VILA-HD model nor ours{hint}"
        )
    if args.base is not None:
        raise VilaHDError(f"--base {args.base}: {folder} holds a whole model, no LoRA weights; leave it out")
    return read_ours(folder), "vila-hd"


def prepare(
    checkpoint: "Checkpoint",
    folder: Path,
    to: str,
    dtype: "torch.dtype | None",
    name: str,
    *,
    extensions: bool,
) -> "Stored":
    """Write everything but the weights; see ``writing.prepare_published``."""
    from .writing import prepare_ours, prepare_published, prepare_tower

    if to == "vila":
        return prepare_published(checkpoint, folder, dtype, name=name, extensions=extensions)
    if to == "ps3":
        return prepare_tower(checkpoint, folder, dtype, extensions=extensions)
    return prepare_ours(checkpoint, folder, dtype)


def describe(stored: "Stored", dtype: "torch.dtype | None") -> str:
    """One line per tensor: where it comes from, what it is called now, its shape and both dtypes."""
    from .tensors import stored_dtype

    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    for place, tensors in stored.items():
        for name, tensor in tensors.items():
            target = name if place == "." else f"{place}/{name}"
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            kinds = [str(kind).removeprefix("torch.") for kind in (tensor.dtype, stored_dtype(tensor, dtype))]
            table.writerow([tensor.source, target, shape, *kinds])
    return text.getvalue()


def _write_report(path: Path | None, text: str) -> None:
    """Into a file, or onto the terminal."""
    if path is None:
        print(text, end="")
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VilaHDError(f"--report {path}: cannot be written ({error.strerror or error})") from error


def _read_template(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise VilaHDError(f"--chat-template {path}: cannot be read ({error})") from error


def _dtype(name: str | None) -> "torch.dtype | None":
    from vila_hd.loading import DTYPES

    return None if name is None else DTYPES[name]


def _size(stored: "Stored", dtype: "torch.dtype | None") -> int:
    from .tensors import total_bytes

    return sum(total_bytes(tensors.values(), dtype) for tensors in stored.values())


if __name__ == "__main__":
    sys.exit(main())
