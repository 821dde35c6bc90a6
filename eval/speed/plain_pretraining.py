"""Worker: a pre-training step the straightforward way, ``python -m eval.speed.plain_pretraining``.

What one writes first, and what the published training does: every picture becomes a float tensor of the
largest scale in the loader and its box a float map of the same size, one region per picture, all scales are
resized and unfolded completely before the chosen patches are taken, and position embeddings are made for
every place. The network, its weights, the losses and the optimiser are those of the measured training.

Shape suffixes: B = pictures, S = largest scale in pixels, N = patches of one scale, D = width.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vila_hd.options import HighResOptions
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.encoder import PS3VisionEncoder
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.outputs import LowRes
from vila_hd.ps3.regions import Regions
from vila_hd.ps3.selection import PatchSelection
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer

from . import measuring


class DenseEncoder(PS3VisionEncoder):
    """The tower with every scale unfolded completely."""

    def _chosen_tokens(self, low: LowRes, selection: PatchSelection, picture: Tensor) -> Tensor:
        config = self.config
        patch, side = config.patch_size, config.ps3_scales[0] // config.patch_size
        images_B3SS = torch.stack(low.pictures)
        patches, positions = [], []
        for i, scale in enumerate(config.high_scales):
            grid = scale // patch
            resized = F.interpolate(images_B3SS, size=(scale, scale), mode="bicubic", align_corners=False)
            patches.append(F.unfold(resized, patch, stride=patch).transpose(1, 2))
            table = self.trunk.pos_embed.view(1, side, side, -1).permute(0, 3, 1, 2)
            table = F.interpolate(table, size=(grid, grid), mode="bicubic", antialias=True)
            position_1ND = table.flatten(2).transpose(1, 2)
            if self.pos_emb_residual is not None:
                position_1ND = position_1ND + self.pos_emb_residual[i]
            positions.append(position_1ND.repeat(len(images_B3SS), 1, 1))
        chosen = torch.zeros(len(picture), sum(p.shape[1] for p in patches), dtype=torch.bool)
        chosen.scatter_(1, selection.index, True)
        taken = torch.cat(patches, dim=1)[chosen]
        tokens = self.trunk.patch_embed.proj(taken.view(-1, 3, patch, patch))
        return tokens + torch.cat(positions, dim=1)[chosen]


class DensePS3Model(PS3Model):
    """The combined model around it."""

    vision_class: ClassVar[type[PS3VisionEncoder]] = DenseEncoder


def read_samples(shard: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Picture and captions of every sample."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            file = archive.extractfile(member)
            assert file is not None
            found.setdefault(key, {})[extension] = file.read()
    return [(sample["jpg"], json.loads(sample["json"])) for sample in found.values()]


class FloatPictures(Dataset):
    """One region per row: the whole picture as floats, and its box as a map of floats."""

    def __init__(self, shard: Path, *, rows: int, side: int, seed: int) -> None:
        """Rows of the samples in ``shard``, ``side`` pixels wide and high."""
        self.samples = read_samples(shard)
        self.rows, self.side, self.seed = rows, side, seed

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str, int]:
        content, said = self.samples[index % len(self.samples)]
        rng = np.random.default_rng((self.seed, index))
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        region = said["regions"][rng.integers(len(said["regions"]))]
        scale = np.array([self.side / picture.width, self.side / picture.height] * 2)
        x1, y1, x2, y2 = np.rint(np.array(region["box"]) * scale).astype(int)
        pixels = np.asarray(picture.resize((self.side, self.side), Image.Resampling.BICUBIC))
        image_3SS = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
        map_SS = torch.zeros(self.side, self.side)
        map_SS[y1:y2, x1:x2] = 1
        return image_3SS, map_SS, region["caption"], index % len(self.samples)


def losses(model: PS3Model, batch: tuple[Tensor, Tensor, list[str], Tensor], ids: Tensor) -> Tensor:
    """Sigmoid contrastive loss and the losses of both score maps."""
    images_B3SS, maps_BSS, captions, pictures = batch
    vision = model.config.vision_config
    regions = Regions.from_maps(maps_BSS)
    output = model(images_B3SS, ids, options=HighResOptions(budget=vision.max_select_num), regions=regions)
    visual, text = (F.normalize(x, dim=-1) for x in (output.image_embeds, output.text_embeds))
    logits = output.logit_scale.exp() * visual @ text.T + output.logit_bias
    matches = torch.eye(len(logits), dtype=torch.bool)
    same = torch.tensor([[one == two for two in captions] for one in captions])
    counted = matches | ~(same | (pictures[:, None] == pictures[None, :]))
    loss = -(F.logsigmoid(torch.where(matches, logits, -logits)) * counted).sum() / len(logits)
    target = F.interpolate(maps_BSS[:, None], size=output.prompt_scores.shape[1:], mode="area")[:, 0] > 0
    for scores in (output.prompt_scores, output.saliency_scores):
        wanted = target.float()
        overlap = 2 * (scores * wanted).sum((1, 2)) / 100 + 1e-6
        total = scores.sum((1, 2)) / 100 + wanted.sum((1, 2)) / 100 + 1e-6
        loss = loss + F.binary_cross_entropy(scores, wanted) + (1 - overlap / total).mean()
    return loss


def build(job: dict[str, Any]) -> measuring.Run:
    """Model, loader and optimiser; the run that is returned does one step on the next batch."""
    torch.manual_seed(job["seed"])
    model = DensePS3Model(PS3Config.from_dict(job["config"])).train()
    tokenizer = PS3Tokenizer.from_pretrained(job["tokenizer"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    pairs = job["pairs"]
    dataset = FloatPictures(
        Path(job["shard"]), rows=pairs * job["steps"], side=job["config"]["vision_config"]["ps3_scales"][-1],
        seed=job["seed"],
    )  # fmt: skip
    loader = DataLoader(dataset, batch_size=pairs, num_workers=1, prefetch_factor=job["prefetch"])
    batches: Iterator[Any] = iter(loader)

    def run() -> measuring.Outcome:
        batch = next(batches)
        loss = losses(model, batch, tokenizer(list(batch[2])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = batch[0].nbytes + batch[1].nbytes
        return measuring.Outcome(tokens=0, check=float(loss.detach()), items=pairs, moved_bytes=moved)

    return run


if __name__ == "__main__":
    measuring.serve(build, training=True)
