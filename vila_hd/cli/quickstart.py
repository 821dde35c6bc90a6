"""``vila-hd quickstart``: what the bundled model can do with a 4K picture, in a minute and with proof."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import VilaHDError
from ..options import HighResOptions
from ..scenes import Question, make_scene, questions, render, split_seeds
from .terminal import Steps

NUM_QUESTIONS = 3


@dataclass(frozen=True)
class Asked:
    """One question with the true answer and the model's answers."""

    question: Question
    close: Any
    """The ``Answer`` at the model's own budget."""

    coarse: Any
    """The ``Answer`` at budget 0: the low-resolution view only."""


def run(args: argparse.Namespace) -> int:
    """Draw a picture, ask, print, write the lens, and say what to try next."""
    folder: Path = args.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VilaHDError(f"cannot write to {str(folder)!r}: {error.strerror or error}; use --out") from error
    seed = split_seeds("test", 1)[0] if args.seed is None else args.seed
    with Steps(3 + NUM_QUESTIONS) as steps:
        with steps.step("drawing a 4K picture"):
            scene = make_scene(seed)
            image = Image.fromarray(render(scene))
            picture = folder / "picture.png"
            image.save(picture, compress_level=1)
        with steps.step("importing libraries"):
            import vila_hd

            from .models import load_for
        with steps.step(f"loading {args.model}"):
            model, processor = load_for(args)
        asked = []
        for number, question in enumerate(_choose(questions(scene, np.random.default_rng(seed))), start=1):
            with steps.step(f"question {number} of {NUM_QUESTIONS}"):
                close = vila_hd.ask(model, processor, [image], question.text)
                coarse = vila_hd.ask(model, processor, [image], question.text, high_res=_no_look(model))
                asked.append(Asked(question, close, coarse))
    _print_answers(picture, image, asked)
    page = _write_lenses(folder, image, asked)
    _print_next_steps(picture, page, asked[0])
    return 0


def _no_look(model: Any) -> HighResOptions:
    return HighResOptions(budget=0, guided_by=model.config.default_guide)


def _choose(known: list[Question]) -> list[Question]:
    """Two small marks, of different kinds where there are both, and the time of day, seen from afar."""
    marks = [question for question in known if question.kind == "mark"]
    second = next((question for question in marks if _noun(question) != _noun(marks[0])), marks[1])
    afar = next(question for question in known if question.kind == "time")
    return [marks[0], second, afar]


def _noun(question: Question) -> str:
    """What is asked for: a pattern, a code, ..."""
    return next(word for word in ("pattern", "code", "shape", "digit", "letter", "") if word in question.text)


def _print_answers(picture: Path, image: Image.Image, asked: list[Asked]) -> None:
    width, height = image.size
    print(f"A {width} x {height} picture that the model has never seen: {picture}\n")
    for item in asked:
        truth = item.question.answer
        right = "right" if _same(item.close.text, truth) else f"wrong, it is {truth!r}"
        print(f"Q: {item.question.text}")
        print(f"A: {item.close.text}   ({right}; without looking closely it says {item.coarse.text!r})")
        for line in item.close.receipt.lines():
            print(f"   {line}")
        print()


def _same(answer: str, truth: str) -> bool:
    return answer.strip().rstrip(".").lower() == truth.strip().lower()


def _write_lenses(folder: Path, image: Image.Image, asked: list[Asked]) -> Path:
    """One page per question and a poster of the first; returns the first page."""
    from ..selection_lens import write_lens

    pages = []
    for number, item in enumerate(asked, start=1):
        words = {"question": item.question.text, "answer": item.close.text}
        page = folder / f"lens_{number}.html"
        pages.append(write_lens(page, [image], item.close.looks, receipt=item.close.receipt, **words))
        if number == 1:
            write_lens(folder / "lens_1.png", [image], item.close.looks, receipt=item.close.receipt, **words)
    return pages[0]


def _print_next_steps(picture: Path, page: Path, first: Asked) -> None:
    ask = f'vila-hd ask {picture} "{first.question.text}"'
    print(f"Where it looked: open {page.resolve()} in a browser")
    print(f"  (the same as a picture: {page.with_suffix('.png')})\n")
    print("Try next:")
    print("  source .venv/bin/activate")
    print(f"  {ask} --budget 0     # the coarse view only: cheap, and blind here")
    closer = 2 * first.close.receipt.looks[0].num_chosen
    print(f"  {ask} --budget {closer} --explain closer.html")
    print(f"  vila-hd chat {picture}     # go on asking; /help in there")
    print("  vila-hd info nano     # what it is made of")
    print("  make nano             # train it yourself")
