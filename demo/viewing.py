"""What the Selection Lens beside the chat shows: data for its script, and the images that it asks for."""

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vila_hd import Answer, Look, VilaHDError
from vila_hd.lens.overlays import heat_picture
from vila_hd.lens.page import has_layer, picture_data, plain_picture_data, seen_layer
from vila_hd.lens.views import low_res_view, processed_view
from vila_hd.selection_lens import write_lens

from .sessions import Session, Turn

Shown = dict[str, Any]
"""Pictures for the viewer's script."""


def show_waiting(session: Session) -> Shown:
    """The pictures that were added but not asked about yet."""
    pictures = [
        {**plain_picture_data(*picture.size), "urls": {"original": f"{session.token}/{picture.shown.name}"}}
        for picture in session.waiting
    ]
    return {"pictures": pictures}


def show_turn(session: Session, turn: Turn) -> Shown:
    """Where the answer of ``turn`` looked, in all pictures of the conversation up to it."""
    if turn.answer is None:
        return {"pictures": []}
    pictures = []
    for index, look in enumerate(turn.answer.looks):
        start = f"{session.token}/{turn.number}_{index}_"
        source = [*turn.known, *turn.pictures][index]
        shown = (
            source.shown.name if look.original_size == source.size else f"{turn.number}_{index}_original.jpg"
        )
        layers = [
            f"{start}scale{scale}.jpg" if has_layer(look, scale, look.original_size) else None
            for scale in range(len(look.scales))
        ]
        urls = {
            "original": f"{session.token}/{shown}",
            "low": f"{start}low.png",
            "heat": f"{start}heat.png",
        }
        pictures.append({**picture_data(look, layers), "urls": urls})
    return {"pictures": pictures}


def image_file(session: Session, name: str) -> Path:
    """The file behind an address of ``show_turn`` or ``show_waiting``; drawn when it is first asked for.

    Raises:
        VilaHDError: there is no such image.
    """
    pictures = [*session.waiting, *(picture for turn in session.turns for picture in turn.pictures)]
    known = {picture.shown.name: picture.shown for picture in pictures}
    if name in known:
        return known[name]
    number, _, rest = name.partition("_")
    index, _, what = rest.partition("_")
    if not (number.isdecimal() and index.isdecimal()):
        raise VilaHDError(f"no image {name!r}")
    answer = session.turn(int(number)).answer
    if answer is None or int(index) >= len(answer.looks):
        raise VilaHDError(f"no image {name!r}")
    place = session.folder / name
    if not place.exists():
        _draw(answer, int(index), what, place)
    return place


def _draw(answer: Answer, index: int, what: str, place: Path) -> None:
    look, image = answer.looks[index], answer.history.pictures[index]
    draw: dict[str, Callable[[], Image.Image]] = {
        "original.jpg": lambda: image,
        "heat.png": lambda: heat_picture(look),
        "low.png": lambda: low_res_view(processed_view(image, look), look),
    }
    for scale in range(len(look.scales)):
        draw[f"scale{scale}.jpg"] = partial(_draw_scale, image, look, scale)
    if what not in draw:
        raise VilaHDError(f"no image {what!r}")
    # Other requests may read or draw the same file meanwhile.
    unfinished = place.with_name(f"{secrets.token_hex(4)}_{place.name}")
    picture = draw[what]()
    if place.suffix == ".jpg":
        picture.save(unfinished, quality=90, subsampling=0)
    else:
        picture.save(unfinished)
    unfinished.replace(place)


def _draw_scale(image: Image.Image, look: Look, scale: int) -> Image.Image:
    return seen_layer(processed_view(image, look), look, scale)


def report_file(session: Session, number: int) -> Path:
    """The Selection Lens of one answer as a self-contained page.

    Raises:
        VilaHDError: there is no such answer, or it is about no picture.
    """
    turn = session.turn(number)
    if turn.answer is None:
        raise VilaHDError("this question has no answer: there is nothing to report")
    place = session.folder / f"report_{number}.html"
    if not place.exists():
        answer = turn.answer
        words = {"question": turn.question, "answer": answer.text}
        write_lens(place, answer.history.pictures, answer.looks, receipt=answer.receipt, **words)
    return place
