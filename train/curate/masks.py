"""Segments of a picture by a SAM model, through the mask-generation pipeline of transformers."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import SamImageProcessorPil, pipeline

from vila_hd.errors import VilaHDError

from .saliency import Mask, suppress


class MaskImageProcessor(SamImageProcessorPil):
    """The processor of SAM, without what it needs torchvision for, and with masks left run-length encoded.

    A 4K picture has hundreds of segments: unpacked, all at once, they would take gigabytes.
    """

    def post_process_for_mask_generation(
        self, all_masks: list[Any], all_scores: torch.Tensor, all_boxes: torch.Tensor, crops_nms_thresh: float
    ) -> tuple[list[Any], torch.Tensor, list[Any], torch.Tensor]:
        """Masks (encoded), scores, masks again and boxes, without those that repeat a better one."""
        boxes, scores = all_boxes.float().cpu().numpy(), all_scores.float().cpu().numpy()
        kept = suppress(boxes, scores, crops_nms_thresh).tolist()
        masks = [all_masks[i] for i in kept]
        return masks, all_scores[kept], masks, all_boxes[kept]


@dataclass(frozen=True)
class MaskOptions:
    """Settings of "segment everything"; the defaults are those of the paper's table."""

    model: str
    """Folder or hub id of a SAM model."""

    points_per_side: int = 24
    points_per_batch: int = 32
    """Points at once: only memory and speed depend on it (paper: 128)."""

    crop_layers: int = 1
    crop_points_downscale: int = 1
    pred_iou: float = 0.6
    stability: float = 0.85
    longest_side: int = 2048
    """Pixels to which pictures are made smaller for SAM, which sees 1024 of them at once; masks are scaled
    back."""

    device: str = "cpu"


class MaskGenerator:
    """Picture -> masks."""

    def __init__(self, options: MaskOptions) -> None:
        """Load the model.

        Raises:
            VilaHDError: it is no SAM model, or not to be had.
        """
        self.options = options
        try:
            processor = MaskImageProcessor.from_pretrained(options.model)
            self.pipeline = pipeline(
                "mask-generation", model=options.model, image_processor=processor, device=options.device
            )
        except (OSError, ValueError, KeyError) as error:
            raise VilaHDError(f"--sam {options.model}: {_first_line(error)}") from error

    def __call__(self, picture: Image.Image) -> list[Mask]:
        """Masks of an RGB picture, at the size that SAM was shown."""
        options = self.options
        shrink = options.longest_side / max(picture.size)
        if shrink < 1:
            size = tuple(max(1, round(side * shrink)) for side in picture.size)
            picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        found = self.pipeline(
            picture,
            points_per_batch=options.points_per_batch,
            points_per_crop=options.points_per_side,
            crops_n_layers=options.crop_layers,
            crop_n_points_downscale_factor=options.crop_points_downscale,
            pred_iou_thresh=options.pred_iou,
            stability_score_thresh=options.stability,
        )
        return [Mask((entry["size"][0], entry["size"][1]), entry["counts"]) for entry in found["masks"]]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
