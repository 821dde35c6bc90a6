"""Worker that measures one pre-training step of ours: ``python -m train.step_speed MEASURING.py``.

``python -m eval speed train`` drives it over standard input; the measuring loop is handed over as a file, so
that both sides are measured by the same code.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer

from .config import ContrastiveConfig, DataConfig, OptimConfig, StageConfig
from .data.collators import RegionCollator
from .data.regions import RealRegionDataset
from .region_config import RegionDataConfig, RegionSource
from .steps import PretrainStep


def make_stage(job: dict[str, Any]) -> StageConfig:
    """The stage that the job describes."""
    pictures = job["pairs"] // job["regions"]
    sources = (RegionSource(name="measured", path=job["shard"]),)
    return StageConfig(
        name="step_speed", stage="ps3_pretrain", model=Path("none"), output_dir=Path("none"),
        trainable=("vision", "selector", "text"), optim=OptimConfig(lr=1e-5), max_steps=job["steps"],
        global_batch_size=pictures, micro_batch_size=pictures, precision="fp32", seed=job["seed"],
        contrastive=ContrastiveConfig(global_share=0.0),
        data=DataConfig(items_per_picture=job["regions"], regions=RegionDataConfig(sources=sources)),
    )  # fmt: skip


def build_with(measuring: Any, job: dict[str, Any]) -> Any:
    """Model, loader and optimiser; the run that is returned does one step on the next batch."""
    torch.manual_seed(job["seed"])
    config = make_stage(job)
    model = PS3Model(PS3Config.from_dict(job["config"])).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
    assert config.data.regions is not None
    dataset = RealRegionDataset(
        config.data.regions, rows=config.max_steps * config.global_batch_size, seed=config.seed,
        side=model.config.vision_config.ps3_scales[-1], items_per_picture=config.data.items_per_picture,
    )  # fmt: skip
    loader = DataLoader(
        dataset, batch_size=config.micro_batch_size, num_workers=1, prefetch_factor=job["prefetch"],
        collate_fn=RegionCollator(PS3Tokenizer.from_pretrained(job["tokenizer"])),
    )  # fmt: skip
    step, batches = PretrainStep(config), iter(loader)
    return _one_step(measuring, model, step, optimizer, batches)


def _one_step(
    measuring: Any,
    model: PS3Model,
    step: PretrainStep,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Any]],
) -> Any:
    def run() -> Any:
        batch = next(batches)
        loss = step(model, batch, num_items=None).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = sum(pixels.nbytes for pixels in batch["pixel_values"])
        moved += sum(value.nbytes for value in batch.values() if torch.is_tensor(value))
        return measuring.Outcome(
            tokens=0, check=float(loss.detach()), items=len(batch["look_index"]), moved_bytes=moved
        )

    return run


def main() -> None:
    """Serve measurements."""
    spec = importlib.util.spec_from_file_location("measuring", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    measuring = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measuring)
    measuring.serve(lambda job: build_with(measuring, job), training=True)


if __name__ == "__main__":
    main()
