"""``load_checkpoint`` and ``save_checkpoint``: published VILA-HD folders as our models, and back."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from vila_hd.checkpoint_files import TensorInfo, read_json
from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.formats import Headers
from vila_hd.loading import check_attention, resolve_device, resolve_dtype
from vila_hd.modeling_vila_hd import VilaHDForConditionalGeneration
from vila_hd.processing_vila_hd import VilaHDProcessor
from vila_hd.ps3.plans import Rounding

from .checkpoint import (
    Checkpoint,
    ReadOptions,
    assemble,
    from_model,
    open_components,
    read_published,
)
from .folders import ADAPTER_CONFIG, COMPONENTS, PublishedFolder, fetch
from .lora import read_adapter
from .new_folder import new_folder, require_space
from .tensors import NAMES, LazyTensor, from_file, total_bytes
from .writing import prepare_published, write_weights


def load_checkpoint(
    name: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    local_files_only: bool = False,
    chat_template: str | None = None,
    budget_rounding: Rounding | None = None,
    num_attention_heads: int | None = None,
) -> tuple[VilaHDForConditionalGeneration, VilaHDProcessor]:
    """A published VILA-HD model, ready to answer, and its processor.

    The weights are read one tensor at a time into the dtype asked for, so that loading takes hardly more
    memory than the model.

    Args:
        name: folder or hub id, such as ``nvidia/VILA-HD-8B-PS3-1.5K-SigLIP2``; a folder that holds ``model/``
            stands for that.
        base: for a folder of LoRA or DoRA weights: folder or hub id of the model that they change. They are
            merged while they are read.
        dtype: as for ``vila_hd.load``.
        device: as for ``vila_hd.load``.
        attn_implementation: as for ``vila_hd.load``.
        revision: branch, tag or commit of a hub repository.
        local_files_only: never use the network.
        chat_template: template for texts; None: the tokenizer's own.
        budget_rounding: ``floor``: split budgets as the published PS3 packages up to 0.1.3 do; ``remainder``:
            as the newest PS3 source; None: what the folder says, else ``remainder``. The same for models with
            two high-resolution scales, but for budgets that are not whole passes.
        num_attention_heads: of the tower, where its ``model_name`` is not a published one.

    Raises:
        VilaHDError: no such model, one of another kind, a damaged one, or an option of unknown value.
    """
    device = resolve_device(device)
    check_attention(attn_implementation)
    chosen = resolve_dtype(dtype, device)
    options = ReadOptions(
        chat_template=chat_template, budget_rounding=budget_rounding, num_attention_heads=num_attention_heads
    )
    checkpoint = read_checkpoint(
        name, base=base, options=options, revision=revision, local_files_only=local_files_only
    )
    target = checkpoint.stored_dtype if isinstance(chosen, str) else chosen
    model = build_model(checkpoint, target, attn_implementation)
    return model.to(device).eval(), checkpoint.processor


def read_checkpoint(
    name: str | Path,
    *,
    base: str | Path | None = None,
    options: ReadOptions | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Everything about a published model but the values of its tensors; arguments as for
    ``load_checkpoint``."""
    folder = open_published(name, revision=revision, local_files_only=local_files_only)
    if not folder.is_adapter:
        if base is not None:
            raise VilaHDError(
                f"base={str(base)!r}: {name} holds a whole model, no LoRA weights; leave base out"
            )
        return read_published(folder, options or ReadOptions())
    if base is None:
        given = read_json(folder.root / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise VilaHDError(
            f"{name}: LoRA weights for another model (trained on {str(given)[:120]!r}); pass base=, the "
            "folder or hub "
            "id of that model"
        )
    whole = open_published(base, revision=None, local_files_only=local_files_only)
    if whole.is_adapter:
        raise VilaHDError(f"base={str(base)!r}: LoRA weights themselves; name the whole model")
    stored = read_adapter(folder.root).apply(open_components(whole))
    # The adapter's own top-level config counts: training may have changed how the model looks.
    return assemble(whole, folder.config, stored, options or ReadOptions())


def open_published(name: str | Path, *, revision: str | None, local_files_only: bool) -> PublishedFolder:
    """The published folder that a folder's name or a hub id stands for."""
    path = Path(name).expanduser()
    if path.is_dir():
        return PublishedFolder.open(path)
    if path.exists():
        raise VilaHDError(f"{name}: a file, not a folder; give the folder of a model")
    if str(name) == "nano":
        raise VilaHDError("nano: the bundled model is in our own layout; load it with vila_hd.load('nano')")
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise VilaHDError(f"{name}: no such folder; check the name")
    return PublishedFolder.open(fetch(name, revision=revision, local_files_only=local_files_only))


def save_checkpoint(
    model: VilaHDForConditionalGeneration,
    processor: VilaHDProcessor,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    extensions: bool = False,
) -> Path:
    """Write a model in the published layout; ``folder`` appears whole or not at all.

    ``load_checkpoint`` reads it back bit for bit, and the published code reads it, too.

    Args:
        model: ours, wherever it comes from.
        processor: its processor.
        folder: a new or empty folder.
        dtype: of the weights in the files; None: the model's.
        extensions: also write models that only this package can run from that layout (pictures that keep
            their aspect ratio, antialiased resizing, trunks without a published name, ...).

    Raises:
        VilaHDError: the folder exists, the disk is full, or the published code could not run the model and
            ``extensions`` is not set.
    """
    target = Path(folder).expanduser()
    checkpoint = from_model(model, processor)
    with new_folder(target) as partial:
        stored = prepare_published(checkpoint, partial, dtype, name=target.name, extensions=extensions)
        require_space(target, sum(total_bytes(tensors.values(), dtype) for tensors in stored.values()))
        write_weights(partial, stored, dtype)
    return target


def build_model(
    checkpoint: Checkpoint, dtype: torch.dtype, attn_implementation: str
) -> VilaHDForConditionalGeneration:
    """The model of a checkpoint on the CPU, its tensors read one by one.

    Raises:
        VilaHDError: values that are not finite, or a file that changed meanwhile.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        value = tensor.read(dtype)
        # The sum of a tensor is finite only if all of it is; the slow exact test runs where the sum is not.
        if not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
            raise VilaHDError(
                f"{tensor.source}: NaN or infinite values as {str(dtype).removeprefix('torch.')}; get an "
                "intact copy "
                "of the weights, or load them as float32"
            )
        tensors[name] = value
    model = VilaHDForConditionalGeneration.from_pretrained(
        None,
        config=checkpoint.config,
        state_dict=tensors,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    built = cast(VilaHDForConditionalGeneration, model)
    built.generation_config = checkpoint.generation_config
    return built


def describe_checkpoint(
    folder: Path, headers: Headers | None
) -> tuple[VilaHDConfig, VilaHDProcessor, dict[str, TensorInfo]]:
    """A published model without its weights; see ``vila_hd.formats.CheckpointFormat.describe``."""
    published = PublishedFolder.open(folder)
    if published.is_adapter:
        raise VilaHDError(
            f"{folder}: LoRA weights for another model; name that model, or merge both with "
            "llava_compat.convert"
        )
    if headers is None:
        checkpoint = read_published(published, ReadOptions())
    else:
        stored = {name: _from_headers(name, headers) for name in COMPONENTS}
        checkpoint = assemble(published, published.config, stored, ReadOptions())
    place = "" if published.root == folder else f"{published.root.name}/"
    infos = {
        name: TensorInfo(NAMES[tensor.dtype], tensor.shape, place + tensor.source.partition(":")[0])
        for name, tensor in checkpoint.tensors.items()
    }
    return checkpoint.config, checkpoint.processor, infos


def _from_headers(component: str, headers: Headers) -> dict[str, LazyTensor]:
    """Tensors of a component whose weight files are elsewhere: shapes and dtypes, no values."""
    return {
        name: from_file(Path(file), name, info, f"{component}/{Path(file).name}:{name}")
        for file, tensors in headers.items()
        if Path(file).parent.name == component
        for name, info in tensors.items()
    }
