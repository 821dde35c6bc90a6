"""Runs all stages of a recipe in order, each from the finished model of the one before."""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vila_hd
from vila_hd.errors import VilaHDError
from vila_hd.utils import config as yaml_config

from .config import RecipeConfig, StageConfig
from .distributed import barrier, rank
from .engine import free_port, ranks_from_slurm
from .run import run_stage
from .saving import MODEL_FOLDER
from .stage_files import load_recipe

logger = logging.getLogger(__name__)


def run_recipe(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the recipe named on the command line; starts the processes first when nobody has.

    Args:
        options: parsed command line.
        arguments: the command line itself, to be given to the processes.

    Returns:
        Exit status.

    Raises:
        VilaHDError: a file does not fit, or two stages do not follow each other.
    """
    os.environ.update(ranks_from_slurm(os.environ))
    recipe = load_recipe(options.recipe)
    ranks = recipe.ranks if options.ranks is None else options.ranks
    stages = plan_stages(recipe, options.recipe.parent, options)
    if "RANK" not in os.environ and ranks > 1:
        return launch(ranks, arguments)
    for stage in stages:
        finished = stage.output_dir / MODEL_FOLDER
        if finished.exists():
            logger.info("stage %s: finished already (%s)", stage.name, finished)
            continue
        run_stage(stage, resume=True)
    if options.publish is not None:
        if rank() == 0:
            publish(stages[-1].output_dir / MODEL_FOLDER, options.publish)
        barrier()
    return 0


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run this command line in ``ranks`` processes of the DeepSpeed launcher; returns its exit status."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks)]
    command += ["--master_port", str(free_port()), "--module", "train", "recipe", *arguments]
    return subprocess.run(command, check=False).returncode


def plan_stages(recipe: RecipeConfig, folder: Path, options: argparse.Namespace) -> list[StageConfig]:
    """The stages with their inputs and outputs filled in.

    Args:
        recipe: the recipe.
        folder: that of its file; stage and smoke model files are relative to it.
        options: ``smoke``, ``output_dir``, ``overrides``.

    Raises:
        VilaHDError: a stage file does not fit.
    """
    output_dir = options.output_dir or recipe.output_dir
    if options.smoke and options.output_dir is None:
        output_dir = output_dir.with_name(output_dir.name + "_smoke")
    stages: list[StageConfig] = []
    for path in recipe.stages:
        raw: dict[str, Any] = yaml_config.read_yaml(folder / path)
        if stages:
            raw["model"] = str(stages[-1].output_dir / MODEL_FOLDER)
        raw["output_dir"] = str(output_dir / path.stem)
        if options.smoke:
            raw = yaml_config.merge(raw, recipe.smoke)
            if recipe.smoke_model is not None:
                small = str(folder / recipe.smoke_model)
                raw |= {key: small for key in ("model", "llm") if str(raw.get(key, "")).endswith(".yaml")}
        for override in options.overrides:
            raw = yaml_config.apply_override(raw, override)
        try:
            stages.append(yaml_config.from_dict(StageConfig, raw))
        except VilaHDError as error:
            raise VilaHDError(f"{folder / path}: {error}") from error
    return stages


def publish(source: Path, target: Path) -> None:
    """Write the model of ``source`` to ``target`` in bf16; the folder appears only when it is complete."""
    model, processor = vila_hd.load(source, dtype=torch.bfloat16, device="cpu")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    for file in partial.iterdir():
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target / file.name)
    partial.rmdir()
    logger.info("published %s", target)
