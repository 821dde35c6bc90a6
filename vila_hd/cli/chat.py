"""``vila-hd chat``: talk about pictures in the terminal."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import VilaHDError
from .parsers import parse_budget
from .terminal import Steps, print_error, print_lines
from .values import check_question, high_res_options, open_images, parse_guides

HELP = """\
/image FILE...        show it more pictures (with your next question)
/budget N|auto|all    how closely to look from now on
/guided-by WHAT...    prompt, saliency, random, or boxes x1,y1,x2,y2 in the pictures of the next question
/explain FILE         write where it looked for the last answer (.html or .png)
/new                  forget the conversation and the pictures
/help                 this list
/quit                 leave (so does Ctrl-D)
Anything else is a question."""


@dataclass
class Session:
    """The state of one conversation."""

    args: argparse.Namespace
    model: Any
    processor: Any
    waiting: list[Image.Image] = field(default_factory=list)
    """Pictures that go with the next question."""

    history: Any = None
    """The conversation so far, as the library hands it out."""

    last: tuple[str, Any] | None = None
    """Question and answer of the last turn."""

    @property
    def num_addressed(self) -> int:
        """Pictures that boxes can mean: the new ones, or all earlier ones when there are none."""
        return len(self.waiting) or (0 if self.history is None else len(self.history.pictures))


def run(args: argparse.Namespace) -> int:
    """Read lines until there are no more."""
    with Steps(3) as steps:
        with steps.step("opening pictures"):
            images = open_images(args.images, allow_huge=args.allow_huge_images)
        with steps.step("importing libraries"):
            from .models import load_for
        with steps.step(f"loading {args.model}"):
            model, processor = load_for(args)
    session = Session(args, model, processor, waiting=images)
    interactive = sys.stdin.isatty()
    if interactive:
        _prepare_terminal()
        print(f"{args.model} is ready, with {len(images)} picture(s). /help lists what else can be typed.")
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                print()
            return 0
        except UnicodeDecodeError:
            raise VilaHDError("input that is not UTF-8: check the terminal's encoding") from None
        if line in ("/quit", "/exit"):
            return 0
        try:
            _react(session, line)
        except VilaHDError as error:
            if not interactive:  # a script must notice
                raise
            print_error(error)
        except KeyboardInterrupt:
            if not interactive:
                raise
            print("\n(stopped; Ctrl-D leaves)", file=sys.stderr)


def _prepare_terminal() -> None:
    """Arrow keys and history at the prompt, where Python has them."""
    from ..utils.imports import is_installed

    if is_installed("readline"):
        __import__("readline")


def _react(session: Session, line: str) -> None:
    """One line: a command or a question.

    Raises:
        VilaHDError: an unknown command, or anything wrong with what it is given.
    """
    if not line:
        return
    if not line.startswith("/"):
        _answer(session, line)
        return
    name, _, rest = line.partition(" ")
    if name not in _COMMANDS:
        raise VilaHDError(f"unknown command {name!r}: use one of {', '.join(_COMMANDS)} or /quit")
    _COMMANDS[name](session, rest.strip())


def _answer(session: Session, question: str) -> None:
    import vila_hd

    from .models import generation_config

    check_question(question)
    guide = session.model.config.default_guide
    options = high_res_options(session.args, num_images=session.num_addressed, default_guide=guide)
    answer = None
    for piece in vila_hd.stream(
        session.model,
        session.processor,
        session.waiting,
        question,
        high_res=options,
        max_new_tokens=session.args.max_new_tokens,
        history=session.history,
        generation_config=generation_config(session.args, session.model),
    ):
        if isinstance(piece, str):
            print(piece, end="", flush=True)
        else:
            answer = piece
    print(flush=True)
    assert answer is not None, "stream ended without an answer"
    session.history = answer.history
    session.last = (question, answer)
    session.waiting = []
    if not session.args.quiet:
        print_lines(answer.receipt.lines())


def _add_images(session: Session, rest: str) -> None:
    import shlex

    try:
        names = shlex.split(rest)
    except ValueError as error:
        raise VilaHDError(f"/image {rest}: {error}; quote file names with blanks") from None
    if not names:
        raise VilaHDError("/image without a file: name one, e.g. /image picture.png")
    session.waiting += open_images(names, allow_huge=session.args.allow_huge_images)
    print_lines(["{} x {} px".format(*image.size) for image in session.waiting[-len(names) :]])


def _set_budget(session: Session, rest: str) -> None:
    try:
        session.args.budget = parse_budget(rest)
    except argparse.ArgumentTypeError as error:
        raise VilaHDError(f"/budget {error}") from None


def _set_guide(session: Session, rest: str) -> None:
    words = rest.split()
    parse_guides(words, num_images=session.num_addressed)
    session.args.guided_by = words


def _explain(session: Session, rest: str) -> None:
    from ..selection_lens import write_lens

    if session.last is None:
        raise VilaHDError("/explain before the first answer: ask something first")
    if not rest:
        raise VilaHDError("/explain without a file: name one that ends in .html or .png")
    question, answer = session.last
    pictures = answer.history.pictures
    path = write_lens(
        Path(rest), pictures, answer.looks, question=question, answer=answer.text, receipt=answer.receipt
    )
    print_lines([f"where it looked: {path}"])


def _forget(session: Session, rest: str) -> None:
    session.history, session.last, session.waiting = None, None, []


def _help(session: Session, rest: str) -> None:
    print(HELP)


_COMMANDS = {
    "/image": _add_images,
    "/budget": _set_budget,
    "/guided-by": _set_guide,
    "/explain": _explain,
    "/new": _forget,
    "/help": _help,
}
"""What a line that starts with a slash does."""
