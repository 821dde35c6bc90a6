"""Command line of training: a stage (``--config``), a recipe (``recipe``), what a stage needs (``plan``)."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vila_hd.cli.terminal import run_command

from .exits import REQUEUE, Preempted


def build_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train``."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Run one training stage. 'python -m train recipe FILE' runs all stages of a recipe; "
        "'python -m train plan --config FILE --gpus 4x24GB' says whether a stage fits.",
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="stage file, e.g. configs/train/nano/sft.yaml"
    )
    _add_shared(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, run one step, write nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of output_dir"
    )
    return parser


def build_recipe_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train recipe``."""
    parser = argparse.ArgumentParser(
        prog="python -m train recipe",
        description="Run the stages of a recipe in order, each from the output of the one before; finished "
        "ones are skipped, an interrupted one goes on from its newest checkpoint.",
    )
    parser.add_argument("recipe", type=Path, help="recipe file, e.g. configs/train/nano.yaml")
    _add_shared(parser)
    parser.add_argument(
        "--smoke", action="store_true", help="few steps of tiny models: does the whole chain run?"
    )
    parser.add_argument("--ranks", type=int, help="processes; default: the recipe's")
    parser.add_argument("--output-dir", type=Path, help="where all runs go; default: the recipe's")
    parser.add_argument("--publish", type=Path, help="also write the last model there, in bf16")
    return parser


def build_plan_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train plan``."""
    parser = argparse.ArgumentParser(
        prog="python -m train plan",
        description="Estimate parameters, visual tokens and memory per GPU of a stage without starting it; "
        "status 1 when it does not fit.",
    )
    parser.add_argument("--config", type=Path, required=True, help="stage file")
    parser.add_argument("--gpus", required=True, help="how many of which memory, e.g. 4x24GB")
    parser.add_argument("--words", type=int, default=96, help="tokens of text per sequence")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where it will run")
    _add_shared(parser)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, e.g. optim.lr=2e-5; repeatable (in a recipe: of every stage)",
    )
    # The deepspeed launcher appends it; the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success, 2 on bad input, 75 when a signal stopped training after a checkpoint, 130 on Ctrl-C.
    """
    return run_command(lambda: _run(list(sys.argv[1:] if argv is None else argv)), interrupted="interrupted")


def _run(arguments: list[str]) -> int:
    # The deepspeed launcher puts --local_rank in front of the module's own arguments.
    local_rank = [part for part in arguments[:1] if part.startswith("--local_rank")]
    command = next(iter(arguments[len(local_rank) :]), "")
    is_recipe, is_plan = command == "recipe", command == "plan"
    parser = build_recipe_parser() if is_recipe else build_plan_parser() if is_plan else build_parser()
    options = parser.parse_args(arguments[len(local_rank) + 1 :] if is_recipe or is_plan else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("DeepSpeed", "accelerate", "httpx", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if is_recipe:
            from .recipe import run_recipe

            return run_recipe(options, arguments[len(local_rank) + 1 :])
        from .stage_files import load_stage

        config = load_stage(options.config, options.overrides)
        if is_plan:
            from .plan import run_plan

            return run_plan(config, options.gpus, words=options.words, device=options.device)
        from .run import run_stage

        run_stage(config, dry_run=options.dry_run, resume=options.resume)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        return REQUEUE
    return 0
