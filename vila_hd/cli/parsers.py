"""What can be typed: the argument parsers of all commands. Imports nothing heavy: ``--help`` is quick."""

import argparse
from pathlib import Path
from typing import NoReturn

from ..errors import VilaHDError
from ..version import __version__

DEFAULT_MODEL = "nano"

COMMANDS = {
    "ask": "ask one question about one or more pictures",
    "chat": "talk about pictures in the terminal",
    "serve": "answer over HTTP, with the API of OpenAI (extra serve)",
    "mcp": "be a tool for agents over standard input and output (extra serve)",
    "quickstart": "show what the bundled model can do with a 4K picture",
    "info": "what a model is made of and what its looks cost, without loading it",
    "doctor": "check this installation, and the files of a model folder",
    "compose": "build a fresh, untrained model from a vision tower and a language model",
    "scene": "draw one of the 4K pictures that the bundled model was trained on",
}
"""Command -> what it does, in the order of ``vila-hd --help``."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and reach ``main`` as ``VilaHDError``."""

    def error(self, message: str) -> NoReturn:
        raise VilaHDError(f"{message}; see {self.prog} --help")


def main_parser() -> Parser:
    """The parser of the words before the command."""
    width = max(len(name) for name in COMMANDS)
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="vila-hd",
        description="Ask questions about pictures of up to 4K and see where the model looked.",
        epilog=f"commands:\n{listing}\n\n'vila-hd COMMAND --help' tells more about one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vila-hd {__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    return parser


def command_parser(name: str) -> Parser:
    """The parser of everything after the command ``name``."""
    parser = Parser(prog=f"vila-hd {name}", description=_sentence(COMMANDS[name]))
    _BUILDERS[name](parser)
    return parser


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def _ask(parser: Parser) -> None:
    parser.usage = '%(prog)s IMAGE... "QUESTION" [options]'
    parser.add_argument(
        "inputs", nargs="*", metavar="IMAGE... QUESTION", help="picture files, then the question"
    )
    add_model(parser)
    _add_look(parser)
    _add_answer(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--explain", type=_lens_path, metavar="FILE", help="write where it looked to FILE (.html or .png)"
    )
    output.add_argument("--json", action="store_true", help="print answer and receipt as one JSON object")
    output.add_argument("--quiet", action="store_true", help="print the answer only, no receipt")


def _chat(parser: Parser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures to start with")
    add_model(parser)
    _add_look(parser)
    _add_answer(parser)
    parser.add_argument("--quiet", action="store_true", help="print no receipts")


def _serve(parser: Parser) -> None:
    parser.allow_abbrev = False  # --api-key KEY must not pass for --api-key-file
    add_model(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    group.add_argument("--port", type=port_number, default=8000, help="0: any free one (%(default)s)")
    group.add_argument("--served-name", metavar="NAME", help="what requests call the model; default: --model")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that open the API, one a line; default: the environment variable VILA_HD_API_KEY",
    )
    group.add_argument(
        "--allow-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further names of a server that listens on this machine only (behind a proxy, for example)",
    )
    group.add_argument(
        "--workers",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that answer, for models on a CPU; threads and --picture-cache-mb are divided between "
        "them, other limits are those of each (%(default)s)",
    )
    group.add_argument(
        "--grace", type=_count, default=30, metavar="S", help="seconds to end answers in (%(default)s)"
    )
    _add_serving(parser)


def _mcp(parser: Parser) -> None:
    add_model(parser)
    parser.set_defaults(
        host="127.0.0.1", port=0, served_name=None, api_key_file=None, allow_hosts=[], grace=0, workers=1
    )
    _add_serving(parser)


def _add_serving(parser: Parser) -> None:
    sources = parser.add_argument_group("pictures (those in a request itself are always read)")
    sources.add_argument("--allow-urls", action="store_true", help="fetch pictures from any public host")
    sources.add_argument(
        "--url-hosts", nargs="+", default=[], metavar="HOST", help="fetch pictures from these hosts only"
    )
    sources.add_argument(
        "--allow-files",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="read pictures of these folders (file:// addresses)",
    )
    limits = parser.add_argument_group("limits")
    for name, default, unit, about in (
        ("max-batch", 16, "N", "answers that are written together"),
        ("max-new-tokens", 1024, "N", "longest answer that a request may ask for"),
        ("max-pictures", 16, "N", "pictures of one request"),
        ("max-megapixels", 100, "N", "largest picture"),
        ("max-body-mb", 64, "MB", "largest request"),
    ):
        limits.add_argument(
            f"--{name}", type=_positive, default=default, metavar=unit, help=f"{about} (%(default)s)"
        )
    limits.add_argument(
        "--max-waiting",
        type=_count,
        default=64,
        metavar="N",
        help="further requests that may wait; more are refused with status 429 (%(default)s)",
    )
    limits.add_argument(
        "--picture-cache-mb",
        type=_count,
        default=512,
        metavar="MB",
        help="memory for pictures that may be asked about again (%(default)s)",
    )


def _quickstart(parser: Parser) -> None:
    add_model(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), help="folder to write to (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=_count, help="number of the picture; default: one that was not used in training"
    )


def _info(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="'nano', a model folder, or a hub id")
    parser.add_argument("--json", action="store_true", help="print it as one JSON object")


def _doctor(parser: Parser) -> None:
    parser.add_argument(
        "folder", nargs="*", type=Path, metavar="FOLDER", help="model folders to check as well"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON list")


def _compose(parser: Parser) -> None:
    parser.add_argument(
        "tower", metavar="TOWER", help="folder or hub id of a PS3 or SigLIP vision tower or a VILA-HD model"
    )
    parser.add_argument("llm", metavar="LLM", help="folder or hub id of a causal language model")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--projector",
        default="mlp_downsample",
        metavar="TYPE",
        help="mlp_downsample (2x2 patches per token), mlp_downsample_3x3_fix, mlp2x_gelu, ... (%(default)s)",
    )
    parser.add_argument("--seed", type=_count, default=0, help="for the fresh weights (%(default)s)")
    _add_trust(parser)
    group = parser.add_argument_group("encoder, for baselines that see whole pictures with the same trunk")
    group.add_argument(
        "--encoder", choices=("ps3", "low_res", "anyres", "s2"), default="ps3", help="(%(default)s)"
    )
    group.add_argument("--max-tiles", type=_positive, metavar="N", help="anyres: most tiles (16)")
    group.add_argument(
        "--scales", type=_counts, metavar="PX,PX", help="s2: sides of its views (the trunk's, x 2, x 4)"
    )
    group.add_argument(
        "--output-scale", choices=("largest", "smallest"), help="s2: grid of its tokens (largest)"
    )


def _scene(parser: Parser) -> None:
    parser.add_argument("seed", type=_count, metavar="SEED", help="number of the picture, 0 or more")
    parser.add_argument("out", type=Path, metavar="OUT.png", help="where to write it")


_BUILDERS = {
    "ask": _ask,
    "chat": _chat,
    "serve": _serve,
    "mcp": _mcp,
    "quickstart": _quickstart,
    "info": _info,
    "doctor": _doctor,
    "compose": _compose,
    "scene": _scene,
}


def add_model(parser: Parser) -> None:
    """Which model, and how to load it: what ``models.load_for`` reads."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default=DEFAULT_MODEL, help="'nano' (bundled), a model folder, or a hub id (%(default)s)"
    )
    group.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="(%(default)s)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (%(default)s)")
    _add_trust(group)


def _add_trust(parser: "Parser | argparse._ArgumentGroup") -> None:
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python files that come with the model (default: never)",
    )


def _add_look(parser: Parser) -> None:
    group = parser.add_argument_group("how closely to look")
    group.add_argument(
        "--budget",
        type=parse_budget,
        default="auto",
        metavar="N",
        help="high-res patches per picture: a number, 'auto' (the model's default) or 'all' (%(default)s)",
    )
    group.add_argument(
        "--guided-by",
        action="append",
        default=[],
        metavar="WHAT",
        help="'prompt' (the question), 'saliency' (the picture alone), 'random', or a box x1,y1,x2,y2 in "
        "pixels that must be looked at; boxes may be repeated, with several pictures as 2:x1,y1,x2,y2 for "
        "the second; default: what the model was trained for",
    )
    group.add_argument(
        "--per-scale",
        type=_counts,
        metavar="N,N",
        help="patches of each high scale in one pass, low scale first",
    )
    group.add_argument("--max-scale", type=_count, metavar="PX", help="do not look at scales above PX")
    group.add_argument(
        "--smooth", action="store_true", help="spread the patches evenly over interesting areas"
    )
    group.add_argument(
        "--prune",
        metavar="METHOD:KEEP",
        help="drop visual tokens after all were made: tome, visionzip or fastv with the share that stays, "
        "such as visionzip:0.25",
    )
    group.add_argument(
        "--allow-huge-images", action="store_true", help="open pictures above 200 megapixels, too"
    )


def _add_answer(parser: Parser) -> None:
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--max-new-tokens",
        type=_positive,
        default=256,
        metavar="N",
        help="longest answer in tokens (%(default)s)",
    )
    group.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="0: always the likeliest token; above: draw tokens, the more freely the higher (%(default)g)",
    )
    group.add_argument("--seed", type=_count, default=0, help="for drawing tokens (%(default)s)")


def parse_budget(text: str) -> int | str:
    """``--budget``: a number of patches, ``auto`` or ``all``."""
    if text in ("auto", "all"):
        return text
    try:
        return _count(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of patches >= 0, 'auto' or 'all'") from None


def port_number(text: str) -> int:
    """What ``--port`` takes; 0 is any free one.

    Raises:
        argparse.ArgumentTypeError: no port has that number.
    """
    number = _count(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: use a port from 0 to 65535")
    return number


def _count(text: str, least: int = 0) -> int:
    # isdecimal alone takes digits of every script; int() alone takes "1_000" and " 7 ".
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number >= {least}")
    return int(text)


def _positive(text: str) -> int:
    return _count(text, 1)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 100.0:  # also NaN
        raise argparse.ArgumentTypeError(f"{text!r}: use a number from 0 to 100")
    return value


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(_count(part.strip()) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: use whole numbers with commas, e.g. 32,544") from None


def _lens_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".html", ".png"):
        raise argparse.ArgumentTypeError(f"{text!r}: use a file name that ends in .html or .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r}: there is no folder {str(path.parent)!r}; create it first"
        )
    return path
