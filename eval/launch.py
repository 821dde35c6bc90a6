"""Command line of ``python -m eval``. Nothing here imports torch before a command runs.

``python -m eval --model M --tasks T`` without the name of a command is the command ``run``.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError

from .report import Column, Report, Table, command_line

if TYPE_CHECKING:
    from .runner import EvalRun
    from .subjects import ModelSpec
    from .team import Team

DTYPES = ("bfloat16", "float16", "float32")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")


def _add_work_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=8, help="questions answered together (default: 8)")
    parser.add_argument(
        "--processes", type=int, default=1, help="worker processes; requests at a time (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch per process (default: 2)")


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

    mllm = what.add_parser("mllm", help="whole models on a 4K picture, next to Qwen2.5-VL")
    mllm.add_argument("--preset", default="0.5b", help="7b, 0.5b, small or tiny (default: 0.5b)")
    mllm.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    mllm.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    mllm.add_argument("--looks", type=int, nargs="+", default=[2, 4, 6, 12], help="as for tower")
    mllm.add_argument(
        "--encoders", nargs="*", default=["anyres", "s2"], help="also low_res (default: anyres s2)"
    )
    mllm.add_argument(
        "--batches", type=int, nargs="+", default=[1, 4], help="prompts together (default: 1 4)"
    )
    mllm.add_argument(
        "--prune", nargs="+", default=[], metavar="METHOD:KEEP", help="rows that look at everything and prune"
    )
    mllm.add_argument("--max-pixels", type=int, default=4_000_000, help="of Qwen2.5-VL (default: 4000000)")
    mllm.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    mllm.add_argument("--runs", type=int, default=3, help="timed runs after one warm-up; the median counts")
    _add_output_options(mllm)
    mllm.set_defaults(run=_speed_mllm)

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

    serve = what.add_parser("serve", help="the HTTP server against answering one by one, and under load")
    serve.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default: nano)")
    serve.add_argument("--ways", nargs="+", metavar="WAY", help="rows; default: all")
    serve.add_argument("--clients", type=int, default=8, help="requests at a time (default: 8)")
    serve.add_argument("--seconds", type=float, default=30.0, help="per row (default: 30)")
    serve.add_argument(
        "--scenes", type=int, default=2, help="different pictures, in 3 sizes each (default: 2)"
    )
    serve.add_argument("--hostile", type=float, default=0.0, help="share of hostile requests (default: 0)")
    serve.add_argument("--workers", type=int, default=2, help="processes that answer together (default: 2)")
    serve.add_argument("--threads", type=int, default=1, help="threads of torch in the server (default: 1)")
    serve.add_argument("--max-tokens", type=int, default=32, help="longest answer (default: 32)")
    _add_output_options(serve)
    serve.set_defaults(run=_speed_serve)


def _add_model_options(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    if not positional:
        parser.add_argument(
            "--model",
            default="nano",
            help="nano, a model folder or a hub id of VILA-HD; hf:NAME for any image-text-to-text model of "
            "transformers; openai:NAME for one behind an endpoint (default: nano)",
        )
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU when there is one")
    parser.add_argument("--max-pixels", type=int, help="reduce larger pictures (hf: and openai: only)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let hf: models bring code")
    parser.add_argument("--base-url", default="https://api.openai.com/v1", help="of openai: models")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds per request (openai:)")
    parser.add_argument("--retries", type=int, default=5, help="further tries per request (openai:)")


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples of each task")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the benchmark's files")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/eval/<model>; to go on from")
    _add_work_options(parser)
    _add_output_options(parser)


def _add_looks(parser: argparse.ArgumentParser, *names: str, budgets: list[str]) -> None:
    parser.add_argument(
        *names,
        dest="budget",
        nargs="+",
        default=budgets,
        help=f"patches per picture, 'auto' or 'all' (default: {' '.join(budgets)})",
    )
    parser.add_argument(
        "--guided-by",
        nargs="+",
        metavar="GUIDE",
        help="prompt, saliency, random (default: what the model answers by)",
    )
    parser.add_argument(
        "--per-scale",
        nargs="+",
        default=[],
        metavar="A,B,C",
        help="patches of each high-resolution scale in one pass, low scale first",
    )
    _add_pruning(parser)


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune",
        nargs="+",
        default=[],
        metavar="METHOD:KEEP",
        help="baselines: share of the visual tokens that stays with tome, fastv or visionzip, such as "
        "visionzip:0.25; or none",
    )


def _add_general(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = commands.add_parser("run", help="accuracy on benchmarks (also without the word run)")
    sweep = commands.add_parser("sweep", help="accuracy of budgets against tokens and time, with a plot")
    for parser in (run, sweep):
        _add_model_options(parser)
        parser.add_argument("--tasks", required=True, help="names of python -m eval list, with commas")
    _add_looks(run, "--budget", budgets=["auto"])
    _add_looks(sweep, "--budgets", "--budget", budgets=["0", "auto", "all"])
    for parser, function in ((run, _run), (sweep, _sweep)):
        _add_task_options(parser)
        parser.set_defaults(run=function)

    sizes = commands.add_parser(
        "recognisable", help="from which resolution on samples are answered right, with a plot"
    )
    sizes.add_argument("model", metavar="MODEL", help="as for --model of run")
    sizes.add_argument("tasks", metavar="TASK", help="one or more, with commas")
    _add_model_options(sizes, positional=True)
    sizes.add_argument(
        "--sides", type=int, nargs="+", default=None, help="pixels (default: 378 756 1512 3780)"
    )
    _add_looks(sizes, "--budget", budgets=["auto"])
    _add_task_options(sizes)
    sizes.set_defaults(run=_recognisable)

    listing = commands.add_parser("list", help="the benchmarks")
    _add_output_options(listing)
    listing.set_defaults(run=_list)

    diff = commands.add_parser("diff", help="two runs sample by sample, with a paired test")
    diff.add_argument("first", type=Path, metavar="A", help="folder of --out, or a file of predictions")
    diff.add_argument("second", type=Path, metavar="B")
    diff.add_argument(
        "--conditions", nargs="+", default=[], help="column 'looks' of both sides, or of A and of B"
    )
    diff.add_argument("--show", type=int, default=20, help="flipped samples to print; 0: all (default: 20)")
    _add_output_options(diff)
    diff.set_defaults(run=_diff)


def _add_scenes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scenes = commands.add_parser("scenes", help="accuracy on held-out 4K scenes against budget and guide")
    scenes.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default: nano)")
    scenes.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    scenes.add_argument("--count", type=int, default=200, help="scenes (default: 200)")
    scenes.add_argument(
        "--kind", default="mark", help="what to ask for: mark, where, count, time or place (default: mark)"
    )
    scenes.add_argument(
        "--questions-per-scene", type=int, default=1, help="about different signs (default: 1)"
    )
    scenes.add_argument("--split", default="test", help="seeds: test, validation or train (default: test)")
    scenes.add_argument(
        "--tier", nargs="+", default=[], help="kinds of marks; default: the generator's mixture"
    )
    scenes.add_argument(
        "--budget",
        nargs="+",
        help="patches per picture, 'auto' or 'all' (default: 0 144 288 576 auto; without choice: 0 auto)",
    )
    scenes.add_argument(
        "--guided-by",
        nargs="+",
        metavar="GUIDE",
        help="prompt, saliency, random (default: all of them, if the model can be guided by the question)",
    )
    _add_pruning(scenes)
    _add_work_options(scenes)
    scenes.add_argument(
        "--out",
        type=Path,
        help="folder of predictions, to go on from; default: runs/eval/scenes/<model>, or <model>-<kind>",
    )
    _add_output_options(scenes)
    scenes.set_defaults(run=_scenes)


def _add_claims(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    claims = commands.add_parser("claims", help="the paper's claims, on models that are trained for it")
    claims.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="numbers of claims")
    claims.add_argument("--out", type=Path, metavar="DIR", help="default: runs/claims; to go on from")
    claims.add_argument(
        "--document", type=Path, metavar="FILE", help="default: docs/claims.md; of a smoke run: in --out"
    )
    claims.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    claims.add_argument(
        "--smoke", action="store_true", help="does it all run? two training steps, two scenes"
    )
    claims.add_argument("--cores", type=int, default=2, help="trainings and answers at a time (default: 2)")
    _add_output_options(claims)
    claims.set_defaults(run=_claims)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m eval", description="Measure speed and accuracy.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_general(commands)
    _add_scenes(commands)
    _add_speed(commands)
    _add_claims(commands)
    return parser


def _model_spec(args: argparse.Namespace, team: "Team") -> "ModelSpec":
    from .subjects import EndpointSpec, ModelSpec, TransformersSpec

    kind, _, name = args.model.partition(":")
    shared = {"dtype": args.dtype, "device": team.device(args.device), "revision": args.revision}
    if kind == "hf" and name:
        return TransformersSpec(
            name=name, max_pixels=args.max_pixels, trust_remote_code=args.trust_remote_code, **shared
        )
    if kind == "openai" and name:
        return EndpointSpec(
            name=name,
            max_pixels=args.max_pixels,
            base_url=args.base_url,
            timeout=args.timeout,
            retries=args.retries,
        )
    if args.max_pixels is not None:
        raise VilaHDError(f"--max-pixels {args.max_pixels}: for hf: and openai: only; use --budget here")
    return ModelSpec(name=args.model, **shared)


def _short_name(model: str) -> str:
    """The last word of a name or path; of what a training wrote, ``RUN/STAGE/model``, the first two."""
    parts = [part for part in Path(model).parts if part not in ("/", "..")] or ["model"]
    words = parts[-3:-1] or parts if parts[-1] == "model" else parts[-1:]
    return "-".join(words).replace(":", "-")


def _eval_run(args: argparse.Namespace, team: "Team") -> "EvalRun":
    from .conditions import cross
    from .predict import Work
    from .runner import EvalRun

    spec = _model_spec(args, team)
    return EvalRun(
        spec=spec,
        tasks=tuple(name.strip() for name in args.tasks.split(",") if name.strip()),
        out=args.out or Path("runs/eval") / _short_name(args.model),
        conditions=cross(args.budget, args.guided_by or [spec.default_guide()], args.per_scale, args.prune),
        limit=args.limit,
        data=args.data,
        work=Work(batch_size=args.batch_size, processes=args.processes, threads=args.threads),
    )


def _run(args: argparse.Namespace, command: str) -> Report | None:
    from .runner import run_tasks
    from .team import join_team

    with join_team() as team:
        report = run_tasks(_eval_run(args, team), command=command, team=team)
    return report if team.leads else None


def _sweep(args: argparse.Namespace, command: str) -> Report | None:
    from .sweep import run_sweep
    from .team import join_team

    with join_team() as team:
        report = run_sweep(_eval_run(args, team), command=command, team=team)
    return report if team.leads else None


def _recognisable(args: argparse.Namespace, command: str) -> Report | None:
    from .recognisable import SIDES, check_sides, run_recognisable
    from .team import join_team

    sides = check_sides(SIDES if args.sides is None else args.sides)
    with join_team() as team:
        run = replace(_eval_run(args, team), sides=sides)
        report = run_recognisable(run, command=command, team=team)
    return report if team.leads else None


def _list(args: argparse.Namespace, command: str) -> Report:
    from .registry import list_benchmarks

    columns = tuple(Column(key=key, title=key) for key in ("task", "metric", "about"))
    return Report(command=command, facts={}, tables=(Table(columns=columns, rows=tuple(list_benchmarks())),))


def _diff(args: argparse.Namespace, command: str) -> Report:
    from .diff import run_diff

    return run_diff(args.first, args.second, conditions=args.conditions, show=args.show, command=command)


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


def _speed_mllm(args: argparse.Namespace, command: str) -> Report:
    from .speed.mllm import MllmRun, run_mllm

    run = MllmRun(
        preset=args.preset, dtype=args.dtype, device=args.device, looks=tuple(args.looks),
        encoders=tuple(args.encoders), prune=tuple(args.prune), batches=tuple(args.batches),
        max_pixels=args.max_pixels, threads=args.threads, runs=args.runs,
    )  # fmt: skip
    return run_mllm(run, command=command)


def _speed_serve(args: argparse.Namespace, command: str) -> Report:
    from .speed.serving import WAYS, ServeRun, run_serving

    run = ServeRun(
        model=args.model, ways=tuple(args.ways or WAYS), clients=args.clients, seconds=args.seconds,
        scenes=args.scenes, hostile=args.hostile, workers=args.workers, threads=args.threads,
        max_tokens=args.max_tokens,
    )  # fmt: skip
    return run_serving(run, command=command)


def _speed_train(args: argparse.Namespace, command: str) -> Report:
    from .speed.training import TrainRun, run_training

    run = TrainRun(
        width=args.width, depth=args.depth, pairs=args.pairs, regions=args.regions, pictures=args.pictures,
        threads=args.threads, runs=args.runs,
    )  # fmt: skip
    return run_training(run, command=command)


def _scenes(args: argparse.Namespace, command: str) -> Report | None:
    from .benchmarks.scenes import SceneBenchmark
    from .conditions import GUIDES, cross
    from .predict import Work
    from .scenes import ScenesRun, run_scenes
    from .subjects import ModelSpec
    from .team import join_team

    benchmark = SceneBenchmark(
        count=args.count,
        questions_per_scene=args.questions_per_scene,
        split=args.split,
        tiers=tuple(args.tier),
        kind=args.kind,
    )
    name = _short_name(args.model) if args.kind == "mark" else f"{_short_name(args.model)}-{args.kind}"
    spec = ModelSpec(name=args.model)
    guide = spec.default_guide()
    guides = args.guided_by or (GUIDES if guide == "prompt" else [guide])
    run = ScenesRun(
        model=args.model,
        benchmark=benchmark,
        conditions=cross(args.budget or spec.default_budgets(), guides, prunings=args.prune),
        out=args.out or Path("runs/eval/scenes") / name,
        dtype=args.dtype,
        work=Work(batch_size=args.batch_size, processes=args.processes, threads=args.threads),
    )
    with join_team() as team:
        report = run_scenes(run, command=command, team=team)
    return report if team.leads else None


def _claims(args: argparse.Namespace, command: str) -> Report:
    from .claims.runner import ClaimsRun, plan_report, run_claims

    name = "claims_smoke" if args.smoke else "claims"
    run = ClaimsRun(
        out=args.out or Path("runs") / name,
        only=tuple(args.only),
        document=args.document or (None if args.smoke else Path("docs/claims.md")),
        cores=args.cores,
        smoke=args.smoke,
    )
    return (plan_report if args.plan else run_claims)(run, command=command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 for an error that the user can mend, also of single samples, 130 after
    Ctrl-C."""
    said = "interrupted: what was answered is kept, the same command goes on from there"
    return run_command(lambda: _main(list(sys.argv[1:] if argv is None else argv)), interrupted=said)


def _main(arguments: list[str]) -> int:
    command = command_line(arguments)
    if arguments and arguments[0].startswith("--") and arguments[0] != "--help":
        arguments.insert(0, "run")
    args = build_parser().parse_args(arguments)
    report: Report | None = args.run(args, command)
    if report is None:  # another process of the team reports
        return 0
    if args.json is not None:
        report.write_json(args.json)
    print(report.markdown() if args.markdown else report.text())
    if report.incomplete:
        raise VilaHDError(report.incomplete)
    return 0
