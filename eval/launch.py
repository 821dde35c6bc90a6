"""Command line of ``python -m eval``. Nothing here imports torch before a command runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vila_hd.errors import VilaHDError

from .report import Report, command_line

DTYPES = ("bfloat16", "float16", "float32")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")


def _add_measuring_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="so400m-4k", help="so400m-4k, so400m-1.5k, tiny-4x or tiny-2x")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs after one warm-up; the median counts")


def _add_speed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    speed = commands.add_parser("speed", help="seconds and memory")
    what = speed.add_subparsers(dest="what", required=True)

    tower = what.add_parser("tower", help="the vision tower, next to ps3-torch 0.1.3")
    _add_measuring_options(tower)
    tower.add_argument(
        "--looks", type=int, nargs="+", default=[1, 6], help="high-resolution passes, a row each"
    )
    tower.add_argument(
        "--peer-python", type=Path, metavar="PATH", help="interpreter that has ps3-torch==0.1.3"
    )
    _add_output_options(tower)
    tower.set_defaults(run=_speed_tower)

    projector = what.add_parser("projector", help="the projector stage, next to projecting the dense grids")
    _add_measuring_options(projector)
    projector.add_argument("--text-width", type=int, default=3584, help="width of the language model")
    projector.add_argument(
        "--looks", type=int, nargs="+", default=[4], help="high-resolution passes, a row each"
    )
    _add_output_options(projector)
    projector.set_defaults(run=_speed_projector)

    train = what.add_parser("train", help="a step of PS3 pre-training, next to the straightforward way")
    for name, default, what_for in (
        ("width", 32, "channels of a token"),
        ("depth", 2, "blocks"),
        ("pairs", 8, "regions with captions per step"),
        ("regions", 4, "regions per picture of ours"),
        ("pictures", 8, "different 4K pictures"),
        ("threads", 1, "threads of torch"),
        ("runs", 3, "timed steps after one warm-up; the median counts"),
    ):
        train.add_argument(f"--{name}", type=int, default=default, help=f"{what_for} (default: {default})")
    _add_output_options(train)
    train.set_defaults(run=_speed_train)


def _add_scenes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scenes = commands.add_parser("scenes", help="accuracy on held-out 4K scenes against budget and guide")
    scenes.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default: nano)")
    scenes.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    scenes.add_argument("--count", type=int, default=200, help="scenes (default: 200)")
    scenes.add_argument(
        "--questions-per-scene", type=int, default=1, help="questions about a mark (default: 1)"
    )
    scenes.add_argument("--split", default="test", help="seeds: test, validation or train (default: test)")
    scenes.add_argument(
        "--tier", nargs="+", default=[], help="kinds of marks; default: the generator's mixture"
    )
    scenes.add_argument(
        "--budget",
        nargs="+",
        default=["0", "144", "288", "576", "auto"],
        help="patches per picture, 'auto' or 'all'",
    )
    scenes.add_argument(
        "--guided-by", nargs="+", default=["prompt", "saliency", "random"], help="prompt, saliency, random"
    )
    scenes.add_argument("--batch-size", type=int, default=8, help="questions answered together (default: 8)")
    scenes.add_argument("--processes", type=int, default=1, help="worker processes (default: 1)")
    scenes.add_argument("--threads", type=int, default=2, help="threads of torch per process (default: 2)")
    scenes.add_argument(
        "--out", type=Path, help="folder of predictions, to go on from; default: runs/eval/scenes/<model>"
    )
    _add_output_options(scenes)
    scenes.set_defaults(run=_scenes)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m eval", description="Measure speed and accuracy.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_speed(commands)
    _add_scenes(commands)
    return parser


def _speed_tower(args: argparse.Namespace, command: str) -> Report:
    from .speed.tower import TowerRun, run_tower

    run = TowerRun(
        preset=args.preset, dtype=args.dtype, looks=tuple(args.looks), peer_python=args.peer_python,
        threads=args.threads, runs=args.runs,
    )  # fmt: skip
    return run_tower(run, command=command)


def _speed_projector(args: argparse.Namespace, command: str) -> Report:
    from .speed.projector import ProjectorRun, run_projector

    run = ProjectorRun(
        preset=args.preset, dtype=args.dtype, looks=tuple(args.looks), text_width=args.text_width,
        threads=args.threads, runs=args.runs,
    )  # fmt: skip
    return run_projector(run, command=command)


def _speed_train(args: argparse.Namespace, command: str) -> Report:
    from .speed.training import TrainRun, run_training

    run = TrainRun(
        width=args.width, depth=args.depth, pairs=args.pairs, regions=args.regions, pictures=args.pictures,
        threads=args.threads, runs=args.runs,
    )  # fmt: skip
    return run_training(run, command=command)


def _scenes(args: argparse.Namespace, command: str) -> Report:
    from .benchmarks.scenes import SceneBenchmark
    from .conditions import cross
    from .predict import Work
    from .scenes import ScenesRun, run_scenes

    benchmark = SceneBenchmark(
        count=args.count,
        questions_per_scene=args.questions_per_scene,
        split=args.split,
        tiers=tuple(args.tier),
    )
    run = ScenesRun(
        model=args.model,
        benchmark=benchmark,
        conditions=cross(args.budget, args.guided_by),
        out=args.out or Path("runs/eval/scenes") / Path(args.model).name,
        dtype=args.dtype,
        work=Work(batch_size=args.batch_size, processes=args.processes, threads=args.threads),
    )
    return run_scenes(run, command=command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 for an error that the user can mend, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(arguments)
    try:
        report: Report = args.run(args, command_line(arguments))
        if args.json is not None:
            report.write_json(args.json)
    except VilaHDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.markdown() if args.markdown else report.text())
    return 0
