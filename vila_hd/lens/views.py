"""What the model could see: the picture at every scale, and the reconstruction from the chosen patches."""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from ..receipt import Look

Size = tuple[int, int]
"""(width, height) in pixels."""


def processed_view(image: Image.Image, look: Look) -> Image.Image:
    """The picture that the tower was given: ``image`` in the look's processed size."""
    return _resize(image, look.processed_size, "antialias")


def low_res_view(processed: Image.Image, look: Look) -> Image.Image:
    """The low-resolution square of the processed picture."""
    return _resize(processed, (look.low_scale, look.low_scale), look.resample)


def scale_view(processed: Image.Image, look: Look, scale_index: int) -> Image.Image:
    """The processed picture as one high scale shows it: (columns, rows) times the patch side."""
    return _resize(processed, scale_size(look, scale_index), look.resample)


def scale_size(look: Look, scale_index: int) -> Size:
    """(width, height) in pixels of one high scale: its whole grid of patches."""
    rows, columns = look.grids[scale_index]
    return columns * look.patch_size, rows * look.patch_size


def view_size(look: Look) -> Size:
    """The original's shape, no larger than its finest view: there is nothing more to show."""
    width, height = look.original_size
    longest = max([look.low_scale, *(max(scale_size(look, index)) for index in range(len(look.scales)))])
    share = min(1.0, longest / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))


def reconstruct(processed: Image.Image, look: Look, size: Size) -> Image.Image:
    """The enlarged low-res view under the chosen patches, the finest on top; see ``selection_lens``."""
    result = low_res_view(processed, look).resize(size, Image.Resampling.BICUBIC)
    for index in range(len(look.scales)):
        chosen = look.chosen(index).numpy()
        if not chosen.any():
            continue
        layer = _resize(scale_view(processed, look, index), size, "antialias")
        result.paste(layer, mask=mask_image(chosen, size))
    return result


def mask_image(mask: np.ndarray, size: Size) -> Image.Image:
    """A (rows, columns) bool map as an "L" picture of ``size`` with hard edges: 255 where True."""
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def _resize(image: Image.Image, size: Size, method: str) -> Image.Image:
    """``image`` in ``size`` pixels; itself when it already is."""
    if image.size == size:
        return image
    if method == "antialias":
        return image.resize(size, Image.Resampling.BICUBIC)  # Pillow's filters always antialias.
    pixels_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized_CHW = interpolate(pixels_CHW[None].float(), size[::-1], mode="bicubic", align_corners=False)[0]
    return Image.fromarray(resized_CHW.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
