"""What the model looks at in the same validation samples again and again: a picture per sample and time."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vila_hd.generation import make_look
from vila_hd.lens.overlays import draw_heat, draw_patches
from vila_hd.outputs import VilaHDOutput
from vila_hd.receipt import Look

from .config import StageConfig
from .distributed import rank
from .steps import look_options, question_inputs, unwrap

logger = logging.getLogger(__name__)

FOLDER = "maps"


class SelectionMaps(TrainerCallback):
    """Draws score maps and chosen patches every ``maps_steps`` steps."""

    def __init__(self, config: StageConfig, batch: dict[str, Any], writer: Any | None) -> None:
        """Watch the pictures of one collated batch.

        Args:
            config: the stage.
            batch: one question about each picture.
            writer: TensorBoard's; None: only files are written.
        """
        self.config = config
        self.batch = batch
        self.writer = writer

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the samples; on every rank, because under ZeRO-3 the weights come from all of them."""
        if state.global_step % self.config.maps_steps or model is None:
            return
        looks = self.look(model, torch.device(args.device))
        shown = self.batch["look_index"].tolist()
        if rank() != 0:
            return
        folder = Path(args.output_dir) / FOLDER / f"step-{state.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, look in enumerate(looks):
            picture = draw_look(look, self.batch["pixel_values"][shown[i]])
            picture.save(folder / f"{i}.png")
            if self.writer is not None:
                self.writer.add_image(f"maps/{i}", np.asarray(picture), state.global_step, dataformats="HWC")

    def look(self, model: nn.Module, device: torch.device) -> list[Look]:
        """What the model looks at without being given any box."""
        was_training = model.training
        inner = unwrap(model)
        model.eval()
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in question_inputs(self.batch).items()
        }
        try:
            with torch.no_grad():
                output = model(
                    **inputs, high_res=look_options(self.config.looks, inner.config.vision_config),
                    logits_to_keep=1,
                )  # fmt: skip
        finally:
            model.train(was_training)
        return [] if output.looks is None else looks_of(output, self.batch, inner.config)


def looks_of(output: VilaHDOutput, batch: dict[str, Any], config: Any) -> list[Look]:
    """The looks of a forward pass."""
    assert output.looks is not None
    assert output.scores is not None
    looks = []
    for index, scores, maps in zip(
        batch["look_index"].tolist(), output.scores, output.looks.pass_maps(), strict=True
    ):
        size = (batch["pixel_values"][index].shape[2], batch["pixel_values"][index].shape[1])
        looks.append(
            make_look(
                config,
                scores,
                maps,
                processed_size=size,
                original_size=size,
                low_res_tokens=config.low_res_tokens,
                high_res_tokens=0,
            )
        )
    return looks


def draw_look(look: Look, pixels: torch.Tensor, *, side: int = 960) -> Image.Image:
    """The picture twice, side by side: with the score of every cell, and with the chosen patches.

    Args:
        look: what was looked at.
        pixels: ``(3, rows, columns)`` uint8.
        side: longest side of each half in pixels.
    """
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    heat = draw_heat(picture, look)
    patches = draw_patches(picture, look, scale_indices=range(len(look.scales)))
    factor = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    both = Image.new("RGB", (2 * size[0], size[1]))
    both.paste(heat.convert("RGB").resize(size), (0, 0))
    both.paste(patches.convert("RGB").resize(size), (size[0], 0))
    return both
