"""Worker that measures one multi-modal model with random weights: ``python -m eval.speed.mllm_worker``.

Shape suffixes: B = prompts answered together, T = tokens of a prompt, N = patches of all pictures.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
)

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.options import HighResOptions, Pruning
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.towers.choice import EncoderChoice

from . import measuring
from .mllm_presets import IMAGE_ID, WORDS, get_mllm_preset, qwen_grid

Subject = tuple[PreTrainedModel, dict[str, Any], int]
"""A model, what its ``generate`` takes, and columns of the prompt."""


class FirstToken(StoppingCriteria):
    """Never stops; remembers when it was asked for the first time, which is after the first token."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """``(B,)`` False."""
        if not self.wall:
            self.wall, self.cpu = time.perf_counter(), time.process_time()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def random_model(
    kind: type[PreTrainedModel], config: PreTrainedConfig, job: dict[str, Any]
) -> PreTrainedModel:
    """A model with small random weights, all of them in memory."""
    dtype = getattr(torch, job["dtype"])
    torch.manual_seed(job["seed"])
    torch.set_default_dtype(dtype)
    model = kind(config)
    torch.set_default_dtype(torch.float32)
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # tables that start at zero: untouched pages would take no memory
                parameter.normal_(std=0.02)
    return model.to(job["device"]).eval()


def prompt_ids(visual: int, job: dict[str, Any]) -> Tensor:
    """``(B, T)``: the picture's placeholders, then random words."""
    generator = torch.Generator().manual_seed(job["seed"])
    words = torch.randint(IMAGE_ID + 1, 60, (job["batch"], WORDS), generator=generator)
    return torch.cat([torch.full((job["batch"], visual), IMAGE_ID), words], dim=1).to(job["device"])


def vila_hd(job: dict[str, Any]) -> Subject:
    """Ours: the question chooses, unless everything is looked at; or the trunk with another encoder."""
    preset = get_mllm_preset(job["preset"])
    tower = PS3VisionConfig(**preset.tower.config)
    chooses = job["encoder"] == "ps3"
    side = preset.tower.side
    width, height = (side, side) if chooses else job["size"]  # the others make their views of any shape
    config = VilaHDConfig(
        vision_config=EncoderChoice(kind=job["encoder"]).config(tower),
        text_config={"model_type": "qwen2", **preset.language.config()},
        image_token_id=IMAGE_ID,
        prompt_head="mlp" if chooses else None,
        high_res_position=chooses,
        default_guide="prompt" if chooses else "saliency",
    )
    model = random_model(VilaHDForConditionalGeneration, config, job)
    generator = torch.Generator().manual_seed(job["seed"])
    pixels = torch.randint(256, (job["batch"], 3, height, width), dtype=torch.uint8, generator=generator)
    options = HighResOptions(
        budget=job["budget"],
        guided_by="saliency" if job["budget"] == "all" else "prompt",
        pruning=None if job["prune"] is None else Pruning.parse(job["prune"]),
    )
    ids = prompt_ids(config.low_res_tokens, job)
    given = {"input_ids": ids, "pixel_values": pixels.to(job["device"]), "high_res": options}
    return model, given, ids.shape[1]


def qwen(job: dict[str, Any]) -> Subject:
    """Qwen2.5-VL of transformers with the same language model."""
    preset = get_mllm_preset(job["preset"])
    text = preset.language.config()
    # Its rotary positions have three parts; of each head's width, as published: 16, 24 and 24 of 64.
    half = preset.language.width // preset.language.heads // 2
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8],
    }
    config = Qwen2_5_VLConfig(
        vision_config=preset.qwen.config(preset.language.width),
        text_config={**text, "rope_parameters": rope},
        image_token_id=IMAGE_ID,
        vision_start_token_id=1,
        vision_end_token_id=2,
        tie_word_embeddings=True,
    )
    model = random_model(Qwen2_5_VLForConditionalGeneration, config, job)
    width, height = job["size"]
    rows, columns = qwen_grid(width, height, job["max_pixels"])
    visual = rows * columns // 4
    generator = torch.Generator().manual_seed(job["seed"])
    pixels = torch.rand(job["batch"] * rows * columns, 2 * 3 * 14 * 14, generator=generator) * 2 - 1
    ids = prompt_ids(visual, job)
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_ID).int(),
        "pixel_values": pixels.to(job["device"], model.dtype),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * job["batch"], device=job["device"]),
    }
    return model, given, ids.shape[1]


SUBJECTS: dict[str, Callable[[dict[str, Any]], Subject]] = {"vila_hd": vila_hd, "qwen": qwen}


def build(job: dict[str, Any]) -> measuring.Run:
    """Make the model and its input; the run that is returned answers with a fixed number of tokens."""
    model, given, _ = SUBJECTS[job["subject"]](job)
    settings = {"do_sample": False, "max_new_tokens": job["new"], "min_new_tokens": job["new"]}

    def run() -> measuring.Outcome:
        clock = FirstToken()
        wall, cpu = time.perf_counter(), time.process_time()
        output = model.generate(
            **given, **settings, stopping_criteria=StoppingCriteriaList([clock]), return_dict_in_generate=True
        )
        cache = output.past_key_values
        return measuring.Outcome(
            tokens=cache.get_seq_length() - (job["new"] - 1) - WORDS,
            check=0.0,
            items=job["batch"],
            first_seconds=clock.wall - wall,
            first_cpu_seconds=clock.cpu - cpu,
        )

    return run


if __name__ == "__main__":
    measuring.serve(build)
