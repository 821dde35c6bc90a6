"""``vila-hd scene``: one generated picture, with everything that can be asked about it."""

import argparse

import numpy as np
from PIL import Image

from ..errors import VilaHDError
from ..scenes import make_scene, questions, render


def run(args: argparse.Namespace) -> int:
    """Write the picture and print its questions with their answers."""
    if args.out.suffix.lower() != ".png":
        raise VilaHDError(f"{str(args.out)!r}: use a file name that ends in .png")
    scene = make_scene(args.seed)
    try:
        Image.fromarray(render(scene)).save(args.out, compress_level=4)
    except OSError as error:
        raise VilaHDError(f"cannot write {str(args.out)!r}: {error.strerror or error}") from error
    for question in questions(scene, np.random.default_rng(args.seed)):
        print(f"{question.text}  {question.answer}")
    return 0
