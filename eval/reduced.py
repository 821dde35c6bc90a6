"""Examples with smaller pictures."""

from dataclasses import replace
from functools import partial

from PIL import Image

from .registry import Example


def reduce_pictures(example: Example, side: int) -> Example:
    """``example`` with pictures that fit into a square of ``side`` pixels; smaller ones stay as they are.

    Boxes of regions are in pixels of the original and are dropped.
    """
    return replace(example, load_images=partial(_load, example, side), regions=())


def _load(example: Example, side: int) -> tuple[Image.Image, ...]:
    return tuple(_reduce(picture, side) for picture in example.load_images())


def _reduce(picture: Image.Image, side: int) -> Image.Image:
    longest = max(picture.size)
    if longest <= side:
        return picture
    width, height = (max(1, round(length * side / longest)) for length in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
