"""A detailed picture and looks at it, small and in 4K."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from vila_hd.receipt import Look, Receipt, empty_pass_maps

MakeLook = Callable[..., Look]


def detailed_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours under one-pixel noise: every reduction changes it and no two places are alike."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = np.stack(
        [127 + 80 * np.sin(x / width * 9), 127 + 80 * np.cos(y / height * 7), x / width * 200], 2
    )
    noise = np.random.default_rng(seed).integers(-40, 41, (height, width, 1))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def look_at(
    size: tuple[int, int],
    *,
    scales: tuple[int, ...] = (96, 480),
    low_scale: int = 64,
    patch_size: int = 16,
    chosen: dict[tuple[int, int, int], int] | None = None,
    **changes: object,
) -> Look:
    """A look at a picture of ``size``; ``chosen`` maps (scale index, row, column) to a pass."""
    width, height = size
    grids = [
        (round(scale * height / max(size) / patch_size), round(scale * width / max(size) / patch_size))
        for scale in scales
    ]
    maps = empty_pass_maps([(max(1, rows), max(1, columns)) for rows, columns in grids])
    for (index, row, column), number in (chosen or {}).items():
        maps[index][row, column] = number
    side = low_scale // patch_size
    values = {
        "scales": scales,
        "low_scale": low_scale,
        "patch_size": patch_size,
        "scores": torch.rand(side, side, generator=torch.Generator().manual_seed(1)),
        "pass_maps": maps,
        "processed_size": (round(width * scales[-1] / max(size)), round(height * scales[-1] / max(size))),
        "original_size": size,
        "low_res_tokens": side * side,
        "high_res_tokens": len(chosen or {}),
    }
    return Look(**{**values, **changes})


def receipt_of(*looks: Look) -> Receipt:
    return Receipt.from_looks(looks, prompt_tokens=9, new_tokens=2, seconds={"low_res": 0.1, "language": 0.2})


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    return detailed_picture


@pytest.fixture
def make_look() -> MakeLook:
    return look_at


@pytest.fixture
def make_receipt() -> Callable[..., Receipt]:
    return receipt_of


@pytest.fixture
def picture() -> Image.Image:
    return detailed_picture(480, 270 + 18)  # 480 x 288: 18 x 30 patches of 16 px at the top scale
