"""The Selection Lens as one self-contained HTML file: no network, no fonts, no scripts but its own."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ..receipt import Look, Receipt, covered_share, format_share
from .overlays import heat_picture, heat_table, pass_colors
from .tiles import answer_tiles
from .views import Size, low_res_view, mask_image, processed_view, scale_size, scale_view

LONGEST_SIDE = 4096
"""Pixels; a larger picture is reduced in the page."""

ORIGINAL_BYTES = 2_400_000
"""At most this much JPEG for the picture itself ..."""

LAYER_BYTES = 1_500_000
"""... and for what all its scales saw. A third is added when bytes become text."""

MANY_PICTURES = 4
"""More pictures than this share the bytes of this many."""


def render_page(
    images: Sequence[Image.Image],
    looks: Sequence[Look],
    *,
    question: str,
    answer: str,
    receipt: Receipt,
) -> str:
    """The whole page; texts are escaped, so any question and answer is harmless."""
    share = min(1.0, MANY_PICTURES / len(looks))
    pictures, figures = [], []
    for index, (image, look) in enumerate(zip(images, looks, strict=True)):
        picture, figure = _picture(image, look, index=index, share=share)
        pictures.append(picture)
        figures.append(figure)
    facts = "".join(
        f"<li><b>{html.escape(value)}</b> {html.escape(label)}</li>"
        for value, label in answer_tiles(looks, receipt)
    )
    return _page(
        ["page.css"],
        ["start.js"],
        pictures,
        {
            "title": html.escape(
                f"{question.strip()} - Selection Lens" if question.strip() else "Selection Lens"
            ),
            "question": html.escape(question.strip() or "Where did it look?"),
            "answer": html.escape(answer.strip()),
            "facts": facts,
            "receipt": "".join(receipt_row(line) for line in receipt.lines()),
            "figures": "\n".join(figures),
            "image_source": "data:",
        },
    )


def render_viewer() -> str:
    """The same page without a picture, to stand in another page, which tells it what to show.

    Its parent tells it ``{"kind": "show", "theme": "dark" or "light", "pictures": [...]}``, with pictures of
    ``picture_data`` or ``plain_picture_data``, to which the addresses of their images are added as ``"urls":
    {"original": ..., "low": ..., "heat": ...}`` and as each scale's ``image``; with ``"fixed": true`` no part
    of them can be marked. ``{"kind": "clear"}`` removes the mark. It tells its parent ``{"kind": "ready"}``,
    ``{"kind": "height", "height": N}``, and when a person marks a part ``{"kind": "box", "picture": 0, "box":
    [x1, y1, x2, y2]}`` in pixels.
    """
    words = dict.fromkeys(("question", "answer", "facts", "receipt", "figures"), "")
    return _page(
        ["page.css", "viewer.css"],
        ["viewer.js"],
        [],
        {**words, "title": "Selection Lens", "image_source": "'self'"},
    )


def _page(
    styles: Sequence[str],
    scripts: Sequence[str],
    pictures: Sequence[Mapping[str, Any]],
    words: Mapping[str, str],
) -> str:
    """The page from its parts; ``words`` are HTML."""
    script = _script(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "style": "\n".join(_fill(_asset(name), {"heat_gradient": _heat_gradient()}) for name in styles),
        "script": script,
        "script_hash": f"sha256-{digest}",
        "data": _script_json({"pictures": pictures}),
    }
    return _fill(_asset("page.html"), {**words, **parts})


def _picture(image: Image.Image, look: Look, *, index: int, share: float) -> tuple[dict[str, Any], str]:
    """One picture's data for the script, and its figures, which are all there is without scripts."""
    view = _capped(look.original_size)
    shown = image if image.size == view else image.resize(view, Image.Resampling.BICUBIC)
    processed = processed_view(image, look)
    name = f"p{index}"
    figures = [
        _figure(f"{name}-original", _jpeg_url(shown, int(ORIGINAL_BYTES * share)), "The picture"),
        _figure(
            f"{name}-low",
            _png_url(low_res_view(processed, look)),
            f"The low-res view: {look.low_scale} px square",
        ),
        _figure(f"{name}-heat", _png_url(heat_picture(look)), "The scores"),
    ]
    layers: list[str | None] = []
    for scale_index, scale in enumerate(look.scales):
        # The finest scale is often the picture itself: then the page needs it only once.
        if not has_layer(look, scale_index, view):
            layers.append(None)
            continue
        layers.append(f"{name}-scale{scale_index}")
        limit = int(LAYER_BYTES * share / len(look.scales))
        url = _jpeg_url(seen_layer(processed, look, scale_index), limit)
        figures.append(_figure(f"{name}-scale{scale_index}", url, f"What it saw at {scale:,} px"))
    return picture_data(look, layers), "\n".join(figures)


def picture_data(look: Look, layers: Sequence[str | None]) -> dict[str, Any]:
    """One picture for the script.

    Args:
        look: what was looked at in it.
        layers: per scale the element that shows what it saw; None: the picture itself does, or nothing was
            chosen.
    """
    scales = []
    for index, (scale, element) in enumerate(zip(look.scales, layers, strict=True)):
        chosen = look.chosen(index).numpy()
        shades = ["#{:02x}{:02x}{:02x}".format(*shade) for shade in pass_colors(look, index)]
        passes = np.minimum(look.pass_maps[index].numpy(), 255).astype(np.uint8)
        scales.append(
            {
                "scale": scale,
                "rows": chosen.shape[0],
                "columns": chosen.shape[1],
                "chosen": int(chosen.sum()),
                "total": int(chosen.size),
                "share": format_share(covered_share([look.chosen(index)])),
                "color": shades[1],
                "shades": shades,
                "passes": base64.b64encode(passes.tobytes()).decode(),
                "image": element,
            }
        )
    scores = np.nan_to_num(look.scores.double().numpy())
    return {
        "width": look.original_size[0],
        "height": look.original_size[1],
        "lowScale": look.low_scale,
        "lowTokens": look.low_res_tokens,
        "passes": look.num_passes,
        "scoreRows": scores.shape[0],
        "scoreColumns": scores.shape[1],
        "scoreRange": [round(float(scores.min()), 4), round(float(scores.max()), 4)],
        "scores": [round(float(score), 4) for score in scores.ravel()],
        "scales": scales,
    }


def plain_picture_data(width: int, height: int) -> dict[str, Any]:
    """A picture for the script that nothing was asked about yet; its size in pixels."""
    return {
        **{"width": width, "height": height, "plain": True, "lowScale": 0, "lowTokens": 0, "passes": 0},
        **{"scoreRows": 1, "scoreColumns": 1, "scoreRange": [0, 0], "scores": [0], "scales": []},
    }


def has_layer(look: Look, scale_index: int, shown: Size) -> bool:
    """Whether a scale needs a picture of its own: something was chosen, and it is not just the original.

    Args:
        look: what was looked at.
        scale_index: the high scale.
        shown: (width, height) in pixels in which the original is shown.
    """
    same = scale_size(look, scale_index) == look.processed_size == look.original_size == shown
    return bool(look.chosen(scale_index).any()) and not same


def seen_layer(processed: Image.Image, look: Look, scale_index: int) -> Image.Image:
    """What one scale saw, in its own resolution, with the low-res view where it is not shown anyway.

    The blur costs few bytes. One more patch is kept all around, so that JPEG blocks do not mix both.
    """
    size = scale_size(look, scale_index)
    chosen = look.chosen(scale_index).numpy()
    grown = Image.fromarray(chosen.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))
    layer = low_res_view(processed, look).resize(size, Image.Resampling.BILINEAR)
    layer.paste(scale_view(processed, look, scale_index), mask=mask_image(np.asarray(grown) > 0, size))
    return layer


def _capped(size: Size) -> Size:
    """``size`` reduced so that no side is longer than ``LONGEST_SIDE``."""
    share = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _jpeg_url(image: Image.Image, limit: int) -> str:
    """``image`` as a JPEG data URI of at most ``limit`` bytes of JPEG, in the best quality that fits."""
    while True:
        # Full colour resolution first (subsampling 0): thin coloured lines are what this is about.
        for quality, subsampling in ((90, 0), (82, 0), (74, 0), (62, 2), (48, 2)):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
            if buffer.tell() <= limit or max(image.size) <= 256:
                return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
            if buffer.tell() > 4 * limit:
                break  # No quality saves that much.
        smaller = max(1, round(image.width * 0.7)), max(1, round(image.height * 0.7))
        image = image.resize(smaller, Image.Resampling.BICUBIC)


def _png_url(image: Image.Image) -> str:
    """``image`` as a PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(element: str, url: str, caption: str) -> str:
    """One picture with its caption; neither holds text of the user."""
    return (
        f'<figure><img id="{element}" alt="{caption}" src="{url}"><figcaption>{caption}</figcaption></figure>'
    )


def receipt_row(line: str) -> str:
    """One line of a receipt as a table row."""
    name, text = line.split("  ", 1)
    return f"<tr><th>{html.escape(name)}</th><td>{html.escape(text.strip())}</td></tr>"


def _heat_gradient() -> str:
    """The colours of the scores as a CSS gradient."""
    stops = ["#{:02x}{:02x}{:02x}".format(*color) for color in heat_table()[::17]]
    return f"linear-gradient(90deg, {', '.join(stops)})"


def _script_json(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """``template`` with every ``{{name}}`` replaced once, so that a part may contain such marks itself."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _script(last: Sequence[str]) -> str:
    """The page's script: one function, so that its names stay its own."""
    body = "\n".join(
        _asset(name) for name in ("pictures.js", "drawing.js", "moving.js", "controls.js", *last)
    )
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _asset(name: str) -> str:
    """A text file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")
