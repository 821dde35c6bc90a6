"""``speed train``: a step of PS3 pre-training, ours next to the straightforward way: same network and
pictures."""

import io
import json
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vila_hd import scenes
from vila_hd.errors import VilaHDError

from ..report import Cell, Column, Report, Table, machine_facts
from .client import Worker, script_beside

PATCH = 14
SCALES = (378, 756, 1512, 3780)
BUDGETS = (85, 341, 2134)
"""The published 4K tower: scales in pixels, and patches of one look per high-resolution scale."""

SIGNS = 4
"""Captioned regions of a picture."""


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """What to measure."""

    width: int = 32
    """Channels of a token; everything else of the published 4K tower is as it is, but for the depth."""

    depth: int = 2
    scales: tuple[int, ...] = SCALES
    budgets: tuple[int, ...] = BUDGETS
    pairs: int = 8
    """Regions with captions per step, in both ways."""

    regions: int = 4
    """Regions per picture of ours; the straightforward way has one."""

    pictures: int = 8
    """Different pictures, 3840 x 2160 pixels, JPEG."""

    threads: int = 1
    runs: int = 3
    """Timed steps after one warm-up; the median counts."""

    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "pairs", "regions", "pictures", "threads", "runs"):
            if getattr(self, name) < 1:
                raise VilaHDError(f"--{name} {getattr(self, name)}: use 1 or more")
        if self.pairs % self.regions:
            raise VilaHDError(f"--pairs {self.pairs} is not a multiple of --regions {self.regions}")
        if self.regions > SIGNS:
            raise VilaHDError(f"--regions {self.regions}: pictures have {SIGNS}, use 1 to {SIGNS}")
        if self.width % 16:
            raise VilaHDError(f"--width {self.width}: use a multiple of 16")

    def config(self, vocabulary: int) -> dict[str, Any]:
        """``config.json`` of the model."""
        vision = {
            "hidden_size": self.width, "num_hidden_layers": self.depth,
            "num_attention_heads": self.width // 16, "intermediate_size": 4 * self.width,
            "patch_size": PATCH, "ps3_scales": list(self.scales),
            "select_based_on_layer": list(range(self.depth)), "max_select_num": sum(self.budgets),
            "max_select_num_each_scale": list(self.budgets), "resample": "bicubic",
            "highres_selection_module_hidden_dim": self.width, "highres_selection_module_out_dim": self.width,
            "highres_selection_module_depth": 1, "selection_image_size": self.scales[-2],
        }  # fmt: skip
        text = {
            "vocab_size": vocabulary, "width": self.width, "heads": self.width // 16, "layers": self.depth,
            "context_length": 16, "output_dim": self.width, "prompt_proj_dim": self.width,
            "no_causal_mask": True, "pool_type": "last",
        }  # fmt: skip
        return {"model_type": "ps3", "vision_config": vision, "text_config": text}


def write_shard(path: Path, *, pictures: int, size: tuple[int, int], seed: int) -> None:
    """A shard of rendered scenes with their signs as captioned regions."""
    config = scenes.SceneConfig(size=size, num_objects=SIGNS)
    with tarfile.open(path, "w") as archive:
        for number in range(pictures):
            scene = scenes.make_scene(scenes.SPLITS["train"][seed * pictures + number], config)
            file = io.BytesIO()
            Image.fromarray(scenes.render(scene)).save(file, "JPEG", quality=92)
            said = {
                "regions": [
                    {"box": list(box), "caption": item.caption}
                    for box, item in zip(scene.boxes, scene.objects, strict=True)
                ],
                "global_caption": scene.global_caption,
            }
            for extension, content in (("jpg", file.getvalue()), ("json", json.dumps(said).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def measure(run: TrainRun, folder: Path, *, size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Answers of both workers, steps alternating.

    Raises:
        VilaHDError: a worker failed.
    """
    # Imported here: the command line must not import torch for --help.
    from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer

    (folder / "words").mkdir()
    words = scenes.build_scene_tokenizer(folder / "words")
    PS3Tokenizer(words, context_length=16, clean="canonicalize").save_pretrained(
        folder / "tokenizer", copy_tokenizer=True
    )
    shard = folder / "000000.tar"
    write_shard(shard, pictures=run.pictures, size=size, seed=run.seed)
    job = {
        "config": run.config(len(words)), "tokenizer": str(folder / "tokenizer"), "shard": str(shard),
        "pairs": run.pairs, "regions": run.regions, "steps": run.runs + 4, "threads": run.threads,
        "seed": run.seed, "prefetch": 1,
    }  # fmt: skip
    commands = {
        "ours": [sys.executable, "-m", "train.step_speed", script_beside("measuring.py")],
        "plain": [sys.executable, "-m", "eval.speed.plain_pretraining"],
    }
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    results = {}
    with ExitStack() as stack:
        workers = {}
        for name, command in commands.items():
            workers[name] = stack.enter_context(Worker(f"the {name} worker", command, job=job))
            workers[name].receive()
            workers[name].ask("run")
        for _ in range(run.runs):
            for name, worker in workers.items():
                answers[name].append(worker.ask("run"))
        for name, worker in workers.items():
            results[name] = summarise(answers[name], worker.ask("finish"))
    return results


def summarise(steps: list[dict[str, Any]], end: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one worker from its steps and its last answer."""
    pairs = sum(step["items"] for step in steps)
    seconds = statistics.median(step["seconds"] for step in steps)
    return {
        "seconds": seconds,
        "cpu_seconds": statistics.median(step["cpu_seconds"] for step in steps),
        "rate": pairs / len(steps) / seconds,
        "moved": sum(step["moved_bytes"] for step in steps) / pairs,
        "peak": end["peak_bytes"],
        "pairs": pairs / len(steps),
    }


def make_table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """Both ways and, in the last row, how many times better ours is."""
    names = {"plain": "straightforward", "ours": "vila-hd"}
    rows: list[dict[str, Cell]] = [
        {
            "who": title, "seconds": results[name]["seconds"], "cpu_seconds": results[name]["cpu_seconds"],
            "rate": results[name]["rate"], "moved": results[name]["moved"] / 1e6,
            "peak": results[name]["peak"] / 1e6,
        }
        for name, title in names.items()
    ]  # fmt: skip
    plain, ours = results["plain"], results["ours"]
    rows.append(
        {
            "who": "ratio", "seconds": plain["seconds"] / ours["seconds"],
            "cpu_seconds": plain["cpu_seconds"] / ours["cpu_seconds"], "rate": ours["rate"] / plain["rate"],
            "moved": plain["moved"] / ours["moved"], "peak": plain["peak"] / ours["peak"],
        }
    )  # fmt: skip
    columns = (
        Column(key="who", title="training step"),
        Column(key="seconds", title="s per step", spec=".2f"),
        Column(key="cpu_seconds", title="CPU s per step", spec=".2f"),
        Column(key="rate", title="samples/s", spec=".2f"),
        Column(key="moved", title="loader MB per sample", spec=".1f"),
        Column(key="peak", title="peak MB", spec=".0f"),
    )
    return Table(title="One step of PS3 pre-training", columns=columns, rows=tuple(rows))


def run_training(run: TrainRun, *, command: str, size: tuple[int, int] = (3840, 2160)) -> Report:
    """Measure the step.

    Raises:
        VilaHDError: a worker failed.
    """
    with tempfile.TemporaryDirectory(prefix="vila-hd-speed-") as folder:
        results = measure(run, Path(folder), size=size)
    facts: dict[str, Cell] = {
        **machine_facts(), "threads": run.threads, "scales": " ".join(map(str, run.scales)),
        "patches per look": sum(run.budgets), "width": run.width, "depth": run.depth,
    }  # fmt: skip
    notes = (
        f"A sample is a region with its caption; {run.pairs} per step in both ways, of "
        f"{run.pairs // run.regions} pictures in ours and {run.pairs} in the other. A step is: wait for the "
        f"loader (one process), forward, losses, backward, AdamW; fp32. Median of {run.runs} after one "
        "warm-up, alternating. Peak: resident memory of the training process.",
        "Straightforward: float pictures and box maps of the largest scale from the loader, one region per "
        "picture, all scales resized and unfolded, dense position embeddings. Same network and losses.",
    )
    return Report(command=command, facts=facts, tables=(make_table(results),), notes=notes)
