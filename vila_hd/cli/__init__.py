"""The command ``vila-hd``. Each command is a module here with a function ``run(args) -> int``.

Exit status: 0 fine, 2 something the user can mend (one line ``error: ...`` on stderr), 130 after Ctrl-C.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence

from ..errors import VilaHDError
from ..utils.logging import configure_for_terminal
from ..utils.text import one_line
from .parsers import COMMANDS, command_parser, main_parser
from .terminal import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status and never raises for bad input."""

    def command() -> int:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = one_line(error)[:100]
            raise VilaHDError(
                f"out of memory ({reason}): use a smaller --budget or --max-scale, or cpu"
            ) from error

    return run_command(command)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether a GPU or the machine had too little memory. Told by name: torch is not imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "can't allocate memory" in str(error)


def _run(words: list[str]) -> int:
    name = words[0] if words else ""
    if name not in COMMANDS:
        parser = main_parser()
        if not words or name in ("-h", "--help"):
            parser.print_help()
            return 0 if words else 2
        parser.parse_known_args(words)  # --version prints and leaves
        raise VilaHDError(f"unknown command {name!r}: use one of {', '.join(COMMANDS)}; see vila-hd --help")
    # Intermixed: options may stand between the pictures and the question.
    args = command_parser(name).parse_intermixed_args(words[1:])
    _quieten_libraries()
    module = importlib.import_module(f".{name}", __name__)
    status: int = module.run(args)
    return status


def _quieten_libraries() -> None:
    """Our warnings as lines on stderr; those of libraries are about code, not about what the user typed."""
    configure_for_terminal()
    for module in ("PIL", "transformers", "torch"):
        warnings.filterwarnings("ignore", module=module)
