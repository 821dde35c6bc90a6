"""``python -m llava_compat.infer``: one prompt, with the flags and environment variables of ``vila-infer``.

Exit status: 0 fine, 2 something the user can mend (one line ``error: ...`` on stderr), 130 after Ctrl-C.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vila_hd.cli.parsers import Parser
from vila_hd.cli.terminal import Steps, run_command
from vila_hd.errors import VilaHDError
from vila_hd.utils.logging import configure_for_terminal, get_logger
from vila_hd.utils.text import one_line

from .conversation import conv_templates
from .environment import VARIABLES, read_environment
from .look_settings import LookSettings
from .media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, File, Image, Video

if TYPE_CHECKING:
    from .api import VilaModel

logger = get_logger(__name__)

CYAN, PLAIN = "\033[1;36m", "\033[0m"

EPILOG = "environment variables that change how closely to look: " + ", ".join(VARIABLES)

SPARE_TOKENS = 1024
"""Tokens of the context that are kept for words when visual tokens fill it."""


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run one command line; returns the exit status and never raises for bad input."""

    def command() -> int:
        args = build_parser().parse_args(argv)
        configure_for_terminal()
        return run(args, os.environ if environment is None else environment)

    return run_command(command)


def build_parser() -> Parser:
    """The parser. Nothing heavy is imported for ``--help``."""
    parser = Parser(
        prog="python -m llava_compat.infer",
        description="Answer one prompt about pictures or videos, with the flags of vila-infer.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--model-path", "-m", required=True, metavar="M", help="'nano', a model folder or a hub id"
    )
    parser.add_argument(
        "--lora-path", "-l", metavar="L", help="LoRA weights; M is the model that they change"
    )
    parser.add_argument(
        "--conv-mode",
        "-c",
        choices=sorted(conv_templates),
        default="auto",
        metavar="C",
        help=f"template: auto (the model's own), {', '.join(sorted(set(conv_templates) - {'auto'}))}",
    )
    parser.add_argument("--text", metavar="T", help="the question, shown after the media")
    parser.add_argument(
        "--media", nargs="+", default=[], metavar="FILE", help="pictures, videos, folders of frames"
    )
    parser.add_argument(
        "--num_video_frames",
        "-nf",
        type=int,
        default=-1,
        metavar="N",
        help="frames of each video; the model's own where N < 1",
    )
    parser.add_argument(
        "--video_max_tiles",
        "-vm",
        type=int,
        default=-1,
        metavar="N",
        help="accepted; PS3 towers cut no picture into tiles",
    )
    parser.add_argument("--json-mode", action="store_true", help="answer with a JSON object")
    parser.add_argument(
        "--json-schema",
        type=Path,
        metavar="FILE",
        help="with --json-mode: a .json schema, or a .py file with a pydantic class Main, which is run",
    )
    return parser


def run(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Answer, after everything that was typed has been looked at."""
    prompt: list[File | str] = [find_media(name) for name in args.media]
    if args.text is not None:
        prompt.append(args.text)
    if not prompt or (not args.media and not args.text.strip()):
        raise VilaHDError("nothing to answer: give --text, --media or both")
    if args.json_schema is not None and not args.json_mode:
        raise VilaHDError("--json-schema without --json-mode: add --json-mode, or leave the schema out")
    if args.video_max_tiles > 1:
        logger.warning("--video_max_tiles %d changes nothing: PS3 towers cut no tiles", args.video_max_tiles)
    response_format = read_format(args.json_schema) if args.json_mode else None
    read_environment(environment, LookSettings())  # judged before anything slow happens
    with Steps(2) as steps:
        with steps.step(f"loading {args.model_path}"):
            model = load_model(args, environment)
        with steps.step("looking and answering"):
            answer = ask(model, prompt, response_format)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
    print(f"{CYAN}{answer}{PLAIN}" if colour else answer)
    sys.stdout.flush()
    return 0


def find_media(name: str) -> File:
    """The picture or video that a word of ``--media`` names.

    Raises:
        VilaHDError: it is neither, or not there.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    is_address = name.startswith(("http://", "https://"))
    if not is_address and not path.exists():
        raise VilaHDError(f"--media {name}: no such file; check the name")
    if path.is_dir() or suffix in VIDEO_SUFFIXES:
        return Video(name)
    if is_address or suffix in IMAGE_SUFFIXES:
        return Image(name)
    raise VilaHDError(
        f"--media {name}: neither a picture ({' '.join(IMAGE_SUFFIXES)}) nor a video "
        f"({' '.join(VIDEO_SUFFIXES)}) nor a folder of frames"
    )


def read_format(schema: Path | None) -> dict[str, Any]:
    """The response format of ``--json-mode`` with ``--json-schema``.

    Raises:
        VilaHDError: the file cannot be read, run, or holds no schema.
    """
    if schema is None:
        return {"type": "json_object"}
    if schema.suffix not in (".json", ".py"):
        raise VilaHDError(
            f"--json-schema {schema}: use a .json schema or a .py file with a pydantic class Main"
        )
    if not schema.is_file():
        raise VilaHDError(f"--json-schema {schema}: no such file; check the name")
    value = _schema_of_module(schema) if schema.suffix == ".py" else _schema_of_file(schema)
    return {"type": "json_schema", "json_schema": {"schema": value}}


def _schema_of_file(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VilaHDError(f"--json-schema {path}: no JSON ({one_line(error)[:120]})") from error


def _schema_of_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("vila_json_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        main_class = module.Main
        # pydantic 1 has the older name only.
        make = getattr(main_class, "model_json_schema", None) or main_class.schema
        return make()
    except Exception as error:  # the user's own program: it raises anything
        raise VilaHDError(
            f"--json-schema {path}: {type(error).__name__}: {one_line(error)[:120]}; define a pydantic class "
            "Main"
        ) from error


def load_model(args: argparse.Namespace, environment: Mapping[str, str]) -> "VilaModel":
    """The model with everything that the command line and the environment change about it."""
    from vila_hd.cli.models import quieten_transformers

    quieten_transformers()
    from .api import load

    if args.lora_path is None:
        model = load(args.model_path)
    else:
        model = load(args.lora_path, model_base=args.model_path)
    # A name of --conv-mode counts for more than the path's; as published, auto does, too.
    model.conversation = conv_templates[args.conv_mode].copy()
    model.look_settings = read_environment(environment, model.look_settings)
    # Judged before pictures are read.
    options = model.look_settings.to_options(model.processor.patches_per_pass)
    tower = model.vision_tower
    model.tokenizer.model_max_length = context_length(
        model.tokenizer.model_max_length,
        options.budget,
        most_patches=sum((scale // tower.patch_size) ** 2 for scale in tower.ps3_scales[1:]),
        patches_per_token=model.model.config.downsample**2,
    )
    if args.num_video_frames > 0:
        model.config.num_video_frames = args.num_video_frames
    return model


def context_length(
    own: int, budget: int | Literal["auto", "all"], *, most_patches: int, patches_per_token: int
) -> int:
    """Tokens of prompt and answer together, enough for what is looked at in one picture.

    Args:
        own: the tokenizer's ``model_max_length``.
        budget: high-resolution patches that are looked at; see ``HighResOptions``.
        most_patches: patches that there are.
        patches_per_token: patches that one visual token stands for.
    """
    patches = min(budget, most_patches) if isinstance(budget, int) else most_patches
    return max(own, patches // patches_per_token + SPARE_TOKENS)


def ask(model: "VilaModel", prompt: Sequence[File | str], response_format: object) -> str:
    """The answer to a prompt."""
    answer = model.generate_content(prompt, response_format=response_format)
    assert isinstance(answer, str)
    return answer


if __name__ == "__main__":
    sys.exit(main())
