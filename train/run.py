"""Runs one stage: arguments, model, data, DeepSpeed engine, and the run folder."""

import json
import logging
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from vila_hd.errors import VilaHDError
from vila_hd.utils import config as yaml_config
from vila_hd.utils.imports import import_optional

from .assembly import Assembly, assemble
from .callbacks import RunLog
from .checkpoints import newest_intact
from .config import StageConfig
from .distributed import rank, world_size
from .engine import engine_config, flatten_scalars, prepare_process, whole_models
from .exits import Preempted
from .lora import add_adapters
from .maps import SelectionMaps
from .preemption import StopOnSignal
from .saving import MODEL_FOLDER, save
from .stages import announce, count_by_component, freeze_all_but
from .trainer import StageTrainer

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "numpy", "safetensors")


def run_stage(config: StageConfig, *, dry_run: bool = False, resume: bool = False) -> Path | None:
    """Train one stage.

    Args:
        config: the stage.
        dry_run: one step, nothing written.
        resume: go on from the newest checkpoint of ``config.output_dir``, if there is one.

    Returns:
        Folder of the finished model; None after a dry run.

    Raises:
        VilaHDError: the run folder already holds a finished model, nothing is supervised, or a value does
        not fit.
        Preempted: a signal came; a checkpoint is written.
    """
    finished = config.output_dir / MODEL_FOLDER
    if finished.exists() and not dry_run:
        raise VilaHDError(f"{finished} is there already: remove it or choose another output_dir")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if dry_run else config.output_dir
        try:
            arguments = training_arguments(config, folder, dry_run=dry_run)
            set_seed(config.seed)
            with whole_models():
                assembly = assemble(config, ranks=world_size())
            freeze_all_but(assembly.model, config.trainable)
            if config.lora is not None:
                add_adapters(assembly.model, config.lora)
        except VilaHDError:
            raise
        except ValueError as error:
            raise VilaHDError(f"stage {config.name}: {error}") from error
        check_supervision(assembly, config)
        if rank() == 0:
            logger.info("stage %s (%s), %d process(es)", config.name, config.stage, world_size())
            logger.info("%s", "\n".join(announce(count_by_component(assembly.model))))
            if not dry_run:
                describe_run(config)
        scalars = flatten_scalars(assembly.model)
        trainer = build_trainer(config, assembly, arguments, None if dry_run else folder)
        train(trainer, newest_intact(folder) if resume else None)
        if dry_run:
            return None
        return save(trainer, assembly, config, scalars)


def train(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Train from the start or from a checkpoint.

    Raises:
        VilaHDError: the checkpoint does not fit this run.
        Preempted: a signal came; a checkpoint is written.
    """
    if rank() == 0 and checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    stop = StopOnSignal()
    trainer.add_callback(stop)
    stop.install()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        stop.restore()
    if stop.stopped_at is not None:
        raise Preempted(stop.stopped_at)


def training_arguments(config: StageConfig, folder: Path, *, dry_run: bool = False) -> TrainingArguments:
    """The stage as transformers' arguments. Creating them starts the process group."""
    prepare_process()
    if "wandb" in config.trackers and not dry_run:
        import_optional("wandb", extra="wandb", purpose="trackers=[wandb]")
    cpu = not torch.cuda.is_available()
    # The world size is known from the environment before the process group exists.
    ranks = _ranks_from_environment()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=1 if dry_run else config.max_steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.accumulation_steps(ranks),
        learning_rate=config.optim.lr,
        lr_scheduler_type=config.optim.schedule,
        warmup_steps=config.optim.warmup_steps,
        max_grad_norm=config.optim.max_grad_norm,
        weight_decay=config.optim.weight_decay,
        adam_beta1=config.optim.betas[0],
        adam_beta2=config.optim.betas[1],
        adam_epsilon=config.optim.eps,
        logging_steps=1 if dry_run else config.logging_steps,
        save_strategy="steps" if config.save_steps and not dry_run else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu else None,
        deepspeed=engine_config(config.deepspeed, config.precision, muon=config.optim.muon_lr is not None),
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        train_sampling_strategy="sequential",
        dataloader_num_workers=config.data.num_workers,
        dataloader_prefetch_factor=config.data.prefetch if config.data.num_workers else None,
        dataloader_pin_memory=not cpu,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        run_name=config.name,
        report_to=["wandb"] if "wandb" in config.trackers and not dry_run else [],
    )


def _ranks_from_environment() -> int:
    import os

    return int(os.environ["WORLD_SIZE"])


def check_supervision(assembly: Assembly, config: StageConfig) -> None:
    """Refuse to start when the first batch would teach nothing.

    Raises:
        VilaHDError: no supervised token, no region.
    """
    rows = [assembly.dataset[index] for index in range(min(config.micro_batch_size, len(assembly.dataset)))]
    supervised = assembly.count_supervised(assembly.collator(rows))
    if not supervised:
        raise VilaHDError(
            f"stage {config.name}: nothing is supervised in the first {len(rows)} rows; check the data "
            "section and the chat template"
        )


def build_trainer(
    config: StageConfig, assembly: Assembly, arguments: TrainingArguments, folder: Path | None
) -> StageTrainer:
    """The trainer with everything that writes down what happens; ``folder`` None: nothing is written."""
    trainer = StageTrainer(
        step=assembly.step,
        optim=config.optim,
        model=assembly.model,
        args=arguments,
        train_dataset=assembly.dataset,
        data_collator=assembly.collator,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunLog(None if folder is None else folder / "metrics.jsonl"))
    if folder is None:
        return trainer
    writer = None
    if "tensorboard" in config.trackers and rank() == 0:
        import_optional("tensorboard", extra="train", purpose="trackers=[tensorboard]")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(folder / "tensorboard")
        trainer.add_callback(TensorBoardCallback(writer))
    if config.maps_steps and assembly.watched is not None:
        batch = assembly.collator([assembly.watched[i] for i in range(config.maps_samples)])
        trainer.add_callback(SelectionMaps(config, batch, writer))
    return trainer


def describe_run(config: StageConfig) -> None:
    """Write the resolved config, the command and the versions into the run folder."""
    folder = config.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(yaml_config.to_dict(config), sort_keys=False))
    (folder / "command.txt").write_text(" ".join(["python -m train", *sys.argv[1:]]) + "\n")
    versions: dict[str, Any] = {name: metadata.version(name) for name in PACKAGES}
    versions |= {
        "python": platform.python_version(),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
    }
    (folder / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
