"""What this installation is made of, which kernels it uses and why, and which known troubles it has."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from .checkpoint_files import Finding
from .utils.imports import is_installed

OPTIONAL: tuple[tuple[str, str, str, str], ...] = (
    ("deepspeed", "deepspeed", "training", "pip install 'vila-hd[train]'"),
    ("peft", "peft", "LoRA fine-tuning", "pip install 'vila-hd[train]'"),
    ("datasets", "datasets", "evaluation on published benchmarks", "pip install 'vila-hd[eval]'"),
    ("gradio", "gradio", "the demo in a browser", "pip install 'vila-hd[demo]'"),
    ("fastapi", "fastapi", "the server", "pip install 'vila-hd[serve]'"),
    (
        "flash_attn",
        "flash-attn",
        "the flash_attention_2 kernels on NVIDIA GPUs",
        "pip install 'vila-hd[flash]'",
    ),
)
"""``(module, distribution, what needs it, how to get it)`` of packages that only some features use."""

UNUSED_BUT_RISKY: tuple[tuple[str, str], ...] = (
    ("torchvision", "vila_hd needs no torchvision, but transformers imports it when it is there"),
    ("flash_attn", "transformers imports it when it is there"),
    ("bitsandbytes", "transformers imports it when it is there"),
)
"""``(module, why it matters)``: packages that break others when they were built for another torch."""

CORE = ("torch", "transformers", "numpy", "pillow", "safetensors", "sentencepiece")
"""What is looked at when this package runs from its source and no ranges are known."""

ENVIRONMENT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME")
"""Variables that change what libraries do (this one reads none)."""


def check_python() -> Iterator[Finding]:
    """The interpreter and the machine."""
    version = platform.python_version()
    system = f"Python {version}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    yield Finding("ok", "python", system)
    for name in ENVIRONMENT:
        if name in os.environ:
            yield Finding(
                "note", "environment", f"{name}={os.environ[name]}", "unset it if this is not on purpose"
            )


def check_requirements() -> Iterator[Finding]:
    """Installed versions against the ranges that this package asks for."""
    try:
        lines = importlib.metadata.requires("vila-hd") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("note", "vila-hd", "not installed, run from its source", "pip install -e .")
        lines = list(CORE)
    else:
        yield Finding("ok", "vila-hd", importlib.metadata.version("vila-hd"))
    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        yield _compare(wanted)


def _compare(wanted: Requirement) -> Finding:
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "problem", wanted.name, "not installed", f"pip install '{wanted.name}{wanted.specifier}'"
        )
    if not wanted.specifier.contains(version, prereleases=True):
        fix = f"pip install '{wanted.name}{wanted.specifier}'"
        return Finding("problem", wanted.name, f"{version}, needed is {wanted.specifier}", fix)
    return Finding("ok", wanted.name, version)


def check_optional() -> Iterator[Finding]:
    """Packages that only some features need, and whether those that are there can be imported."""
    for module, distribution, purpose, install in OPTIONAL:
        if not is_installed(module):
            yield Finding("note", distribution, f"not installed; needed only for {purpose}", install)
        elif module not in {name for name, _ in UNUSED_BUT_RISKY}:
            yield import_finding(module, f"used for {purpose}")
    for module, why in UNUSED_BUT_RISKY:
        if is_installed(module):
            yield import_finding(module, why)


def import_finding(module: str, why: str) -> Finding:
    """Import ``module`` in a process of its own: one built for another torch can take a process down."""
    program = (
        f"import {module} as m, sys; sys.stderr.write('version ' + getattr(m, '__version__', 'unknown'))"
    )
    try:
        # stdin is closed and stdout dropped: some packages greet.
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "problem", module, f"import takes more than 180 s ({why})", f"reinstall or remove {module}"
        )
    output = done.stderr.decode(errors="replace").strip().splitlines() or [""]
    if done.returncode == 0:
        return Finding("ok", module, output[-1].rpartition("version ")[2])
    reason = output[-1] if done.returncode > 0 else f"killed by signal {-done.returncode}"
    fix = f"install the {module} that was built for this torch, or pip uninstall {module}"
    return Finding("problem", module, f"installed but cannot be imported: {reason[:200]} ({why})", fix)


def check_kernels() -> Iterator[Finding]:
    """Devices, and which attention kernels run on them and why."""
    import torch

    yield Finding("ok", "threads", f"{torch.get_num_threads()} for torch on the CPU")
    yield _cpu_finding()
    if not torch.cuda.is_available():
        built = torch.version.cuda
        text = (
            "none; torch is a CPU build"
            if built is None
            else f"none visible, though torch is built for CUDA {built}"
        )
        fix = "" if built is None else "check nvidia-smi and the driver's version"
        yield Finding("ok" if built is None else "note", "gpu", text, fix)
        yield Finding("ok", "attention", "SDPA, the flash kernel of torch for CPUs: no GPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        bf16 = "bfloat16" if properties.major >= 8 else "no bfloat16: use --dtype float16"
        text = f"cuda:{index} {properties.name}, {memory:.0f} GiB"
        capability = f"capability {properties.major}.{properties.minor}"
        yield Finding("ok", "gpu", f"{text}, {capability}, {bf16}")
    yield _cuda_attention_finding()


def _cpu_finding() -> Finding:
    """Whether bfloat16 is quick on this CPU."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return Finding("ok", "cpu", f"{capability}; whether it has bfloat16 instructions is not known here")
    native = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    if native:
        return Finding("ok", "cpu", f"{capability}, bfloat16 in hardware ({', '.join(native)})")
    return Finding(
        "note", "cpu", f"{capability}, no bfloat16 instructions", "--dtype float32 is faster on this CPU"
    )


def _cuda_attention_finding() -> Finding:
    """The kernel that SDPA takes for the published towers (16 heads of 72) in bfloat16, and why."""
    import torch
    from torch.backends import cuda

    query = torch.empty(1, 16, 64, 72, dtype=torch.bfloat16, device="cuda")
    params = cuda.SDPAParams(query, query, query, None, 0.0, False, False)
    checks = (
        ("cuDNN", cuda.cudnn_sdp_enabled(), cuda.can_use_cudnn_attention(params, False)),
        ("flash", cuda.flash_sdp_enabled(), cuda.can_use_flash_attention(params, False)),
        (
            "memory-efficient",
            cuda.mem_efficient_sdp_enabled(),
            cuda.can_use_efficient_attention(params, False),
        ),
    )
    usable = [name for name, enabled, can in checks if enabled and can]
    refused = [
        f"{name}: {'not for this GPU or shape' if enabled else 'off'}"
        for name, enabled, can in checks
        if not (enabled and can)
    ]
    text = f"SDPA; kernels that can run: {', '.join([*usable, 'math'])}"
    if refused:
        text += f" ({'; '.join(refused)})"
    text += "; flash-attn " + (
        "is used only with attn_implementation='flash_attention_2'"
        if is_installed("flash_attn")
        else "not installed"
    )
    if not usable:
        return Finding(
            "note", "attention", text, "only the slow kernel is left; use a GPU of capability 8.0 or above"
        )
    return Finding("ok", "attention", text)


def check_pictures() -> Iterator[Finding]:
    """Which picture formats this Pillow can read."""
    from PIL import features

    names = {
        "jpg": "JPEG",
        "zlib": "PNG",
        "libtiff": "TIFF",
        "webp": "WebP",
        "avif": "AVIF",
        "jpg_2000": "JPEG 2000",
    }
    there = [label for feature, label in names.items() if features.check(feature)]
    lost = [label for feature, label in names.items() if label not in there]
    if lost:
        yield Finding(
            "note", "pictures", f"this Pillow cannot read {', '.join(lost)}", "pip install -U pillow"
        )
    yield Finding("ok", "pictures", f"reads {', '.join(there)}")
