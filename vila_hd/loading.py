"""``load``: a hub id or folder -> model and processor."""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.utils import cached_file

from .adapters import base_of, is_adapter, merge_adapter
from .checkpoint_files import require_intact
from .configuration_vila_hd import VilaHDConfig
from .errors import VilaHDError
from .formats import find_format
from .modeling_vila_hd import VilaHDForConditionalGeneration
from .processing_vila_hd import VilaHDProcessor

BUNDLED = Path(__file__).resolve().parent / "assets" / "nano"
"""The model that comes with the package; its name for ``load`` is ``nano``."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the dtypes that a model can be loaded in."""

ATTENTION = ("sdpa", "eager", "flash_attention_2")
"""Attention implementations that can be asked for."""

_BROKEN = (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError)
"""What transformers raises on files that are valid JSON but not what it expects."""


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
) -> tuple[VilaHDForConditionalGeneration, VilaHDProcessor]:
    """The model, ready to answer, and its processor.

    Args:
        name: ``"nano"`` (comes with the package), a model folder, a folder with an adapter (the model that it
            makes of its base is opened), or a hub id.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the checkpoint's own on an accelerator,
            float32 on a CPU, where the short formats are slow or unsupported on many machines.
        device: as for torch; None: the GPU when there is one, else the CPU.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2`` (needs the extra ``flash``), for the
            tower and the language model.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: allow a tokenizer to bring its own code. VILA-HD itself needs none.
        local_files_only: never use the network.

    Raises:
        VilaHDError: no such model, one of another kind, a damaged one, or an option of unknown value.
    """
    source = _find(name)
    if is_adapter(Path(source)):
        whole, processor = load(
            base_of(Path(source)),
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            local_files_only=local_files_only,
        )
        merge_adapter(whole, Path(source))
        return whole, processor
    other = find_format(_config_folder(source, revision, local_files_only))
    if other is not None:
        return other.load(
            source,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            revision=revision,
            local_files_only=local_files_only,
        )
    if Path(source).is_dir():
        require_intact(Path(source))
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    check_attention(attn_implementation)
    hub: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": trust_remote_code}
    if revision is not None:
        hub["revision"] = revision
    config, processor = read_parts(source, hub)
    hub.pop("trust_remote_code")
    model = VilaHDForConditionalGeneration.from_pretrained(
        source, config=config, dtype=dtype, attn_implementation=attn_implementation, **hub
    )
    return cast(VilaHDForConditionalGeneration, model).to(device).eval(), processor


def _find(name: str | Path) -> str:
    """The folder or hub id that ``name`` stands for."""
    if str(name) == "nano":
        if not (BUNDLED / "config.json").exists():
            raise VilaHDError(
                f"nano: {BUNDLED} is not complete; install the package again, or train it (make nano)"
            )
        return str(BUNDLED)
    path = Path(name).expanduser()
    if path.is_dir():
        known = (path / "config.json").exists() or is_adapter(path)
        if not known and find_format(path) is None:
            raise VilaHDError(f"{name}: no config.json in this folder; give the folder of a saved model")
        return str(path)
    if path.exists():
        raise VilaHDError(f"{name}: a file, not a folder; give the folder of a saved model")
    if isinstance(name, Path) or str(name).startswith(("/", ".", "~")) or str(name).count("/") != 1:
        raise VilaHDError(f"{name}: no such folder; use 'nano', a model folder or a hub id like owner/name")
    return str(name)


def _config_folder(source: str, revision: str | None, local_files_only: bool) -> Path:
    """The folder that tells the layout of a model: its own, or what of a hub repository is fetched first."""
    if Path(source).is_dir():
        return Path(source)
    try:
        path = cached_file(source, "config.json", revision=revision, local_files_only=local_files_only)
    except (OSError, ValueError):
        return Path(source)  # reported with its reason when our own config is looked for
    return Path(path).parent if path else Path(source)


def read_parts(source: str, hub: dict[str, Any]) -> tuple[VilaHDConfig, VilaHDProcessor]:
    """Config and processor of a model in our own layout, checked against each other.

    Args:
        source: folder or hub id.
        hub: ``local_files_only``, ``trust_remote_code``, ``revision``.

    Raises:
        VilaHDError: there is no such model, one of another kind, or a damaged one.
    """
    config = _read_config(source, hub)
    processor = _read_processor(source, hub)
    _check_pair(source, config, processor)
    return config, processor


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device that ``load(device=...)`` stands for.

    Raises:
        VilaHDError: there is none of this name.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise VilaHDError(f"device={str(device)!r}: use cpu, cuda, cuda:1, mps, ...") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise VilaHDError(f"device={str(device)!r}: torch sees no CUDA GPU; use cpu, or see vila-hd doctor")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """The dtype that ``load(dtype=...)`` stands for on a device; ``auto`` is the checkpoint's own.

    Raises:
        VilaHDError: there is none of this name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise VilaHDError(f"dtype={dtype!r}: use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def check_attention(name: str) -> None:
    """Pass when ``load(attn_implementation=name)`` can work here.

    Raises:
        VilaHDError: an unknown name, or one whose package is missing.
    """
    if name not in ATTENTION:
        raise VilaHDError(f"attn_implementation={name!r}: use one of {', '.join(ATTENTION)}")
    if name == "flash_attention_2":
        from .utils.imports import import_optional

        import_optional("flash_attn", extra="flash", purpose="attn_implementation='flash_attention_2'")


def _read_config(source: str, hub: dict[str, Any]) -> VilaHDConfig:
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except VilaHDError:
        raise
    except OSError as error:
        raise VilaHDError(f"{source}: no such folder or hub repository ({_first_line(error)})") from error
    except _BROKEN as error:
        raise VilaHDError(f"{source}: its config.json cannot be read ({_first_line(error)})") from error
    if not isinstance(config, VilaHDConfig):
        raise VilaHDError(
            f"{source}: a {config.model_type!r} model, not a VILA-HD one; vila_hd.compose builds one from a "
            "tower and a language model"
        )
    return config


def _read_processor(source: str, hub: dict[str, Any]) -> VilaHDProcessor:
    names = {key: value for key, value in hub.items() if key in ("local_files_only", "revision")}
    if (
        cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **names)
        is None
    ):
        raise VilaHDError(f"{source}: no processor_config.json; save the processor there (save_pretrained)")
    try:
        return VilaHDProcessor.from_pretrained(source, **hub)
    except VilaHDError:
        raise
    except (OSError, *_BROKEN) as error:
        raise VilaHDError(f"{source}: its processor cannot be read ({_first_line(error)})") from error


def _check_pair(source: str, config: VilaHDConfig, processor: VilaHDProcessor) -> None:
    """Pass when the processor counts and numbers tokens the way the model does."""
    for name in ("low_res_tokens", "image_token_id"):
        theirs, ours = getattr(processor, name), getattr(config, name)
        if theirs != ours:
            raise VilaHDError(
                f"{source}: {name} is {theirs} in the processor and {ours} in config.json; use files that "
                "belong together"
            )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
