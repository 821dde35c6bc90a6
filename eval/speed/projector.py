"""``speed projector``: visual tokens of the chosen patches, ours next to projecting the dense grids.

Shape suffixes used in this file:
    N = patches of all high scales, K = chosen patches, C = tower width, D = width of the language model,
    M = kept cells, H/W = rows/columns of one scale's patch grid, 1 = the one picture.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vila_hd.configuration_vila_hd import VilaHDConfig
from vila_hd.errors import VilaHDError
from vila_hd.projector import VilaHDProjector, complete_cells

from ..report import Cell, Column, Report, Table, machine_facts
from .machine import gemm_gflops
from .presets import Preset, get_preset

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ProjectorRun:
    """What to measure."""

    preset: str

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    looks: tuple[int, ...] = (4,)
    """High-resolution passes whose patches are projected, one table row each."""

    text_width: int = 3584
    """Width of the language model; the default is that of the 8B models."""

    threads: int = 2
    """Threads of torch."""

    runs: int = 5
    """Timed runs after one warm-up run; the median counts."""

    seed: int = 0

    def __post_init__(self) -> None:
        get_preset(self.preset)
        if not self.looks or min(self.looks) < 1:
            raise VilaHDError(f"--looks {list(self.looks)}: give passes >= 1")
        for name in ("threads", "runs", "text_width"):
            if getattr(self, name) < 1:
                raise VilaHDError(f"--{name.replace('_', '-')} {getattr(self, name)}: use 1 or more")


def make_projector(preset: Preset, text_width: int, *, seed: int) -> VilaHDProjector:
    """A randomly initialised projector of the preset's tower and a language model of ``text_width``."""
    torch.manual_seed(seed)
    text = {
        "model_type": "qwen2",
        "hidden_size": text_width,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    projector = VilaHDProjector(VilaHDConfig(vision_config=dict(preset.config), text_config=text)).eval()
    with torch.no_grad():
        for table in (projector.high_res_pos_embed, *projector.high_res_scale_embed):
            table.normal_(0, 0.02)  # they start at zero, which would hide a mistake from the comparison
    return projector


def choose_patches(preset: Preset, looks: int, *, seed: int) -> tuple[Tensor, list[Grid]]:
    """Flat indices ``(1, K)`` that random scores choose in ``looks`` passes, and the grid per high scale."""
    side = preset.scales[0] // preset.patch
    scores = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    budgets = preset.config["max_select_num_each_scale"]
    assert isinstance(budgets, list)
    grids = [(scale // preset.patch, scale // preset.patch) for scale in preset.scales[1:]]
    chosen, start = [], 0
    for grid, budget in zip(grids, budgets, strict=True):
        ranked = F.interpolate(scores, grid, mode="nearest").flatten().argsort(descending=True, stable=True)
        chosen.append(ranked[: budget * looks].sort().values + start)
        start += grid[0] * grid[1]
    return torch.cat(chosen)[None], grids


def project_gathered(
    projector: VilaHDProjector, features_1KC: Tensor, index_1K: Tensor, grids: list[Grid]
) -> Tensor:
    """Tokens ``(M, D)`` the way the model makes them."""
    return projector.project_cells(features_1KC, complete_cells(index_1K, [grids], projector.side))


def project_dense(
    projector: VilaHDProjector, features_1KC: Tensor, index_1K: Tensor, grids: list[Grid]
) -> Tensor:
    """The same tokens by scattering the features to full grids and projecting every cell of every scale."""
    side, width = projector.side, features_1KC.shape[-1]
    patches = sum(rows * columns for rows, columns in grids)
    full_NC = features_1KC.new_zeros(patches, width)
    full_NC[index_1K[0]] = features_1KC[0]
    chosen_N = torch.zeros(patches)
    chosen_N[index_1K[0]] = 1
    low = projector.low_grid
    table_1DHW = projector.high_res_pos_embed.view(1, low, low, -1).permute(0, 3, 1, 2).float()
    tokens, start = [], 0
    for scale, (rows, columns) in enumerate(grids, start=1):
        here = slice(start, start + rows * columns)
        out = (-(-rows // side), -(-columns // side))
        pad = (0, out[1] * side - columns, 0, out[0] * side - rows)
        grid_HWC = F.pad(full_NC[here].view(rows, columns, width), (0, 0, *pad))
        cells = grid_HWC.view(out[0], side, out[1], side, width).transpose(1, 2).reshape(-1, side**2 * width)
        position_1DHW = F.interpolate(table_1DHW, out, mode="area")
        projected = projector.layers(cells) + position_1DHW.flatten(2)[0].T.to(cells.dtype)
        projected = projected + projector.high_res_scale_embed[scale][0]
        share = F.interpolate(chosen_N[here].view(1, 1, rows, columns), out, mode="area")
        tokens.append(projected[share.flatten() == 1])
        start += rows * columns
    return torch.cat(tokens)


def run_projector(run: ProjectorRun, *, command: str) -> Report:
    """Measure the projector stage.

    Raises:
        VilaHDError: both ways do not agree.
    """
    preset, dtype = get_preset(run.preset), getattr(torch, run.dtype)
    torch.set_num_threads(run.threads)
    facts: dict[str, Cell] = {**machine_facts(), "threads": run.threads, "dtype": run.dtype}
    facts["GEMM GFLOP/s"] = round(gemm_gflops(dtype), 1)
    facts["language-model width"] = run.text_width
    projector = make_projector(preset, run.text_width, seed=run.seed).to(dtype)
    rows = tuple(_measure_row(run, preset, projector, looks) for looks in run.looks)
    columns = (
        Column(key="preset", title="tower"),
        Column(key="looks", title="looks"),
        Column(key="chosen", title="patches chosen"),
        Column(key="patches", title="patches in all"),
        Column(key="tokens", title="tokens kept"),
        Column(key="gathered", title="gathered s", spec=".3f"),
        Column(key="dense", title="dense s", spec=".3f"),
        Column(key="speedup", title="dense/gathered", spec=".1f"),
        Column(key="difference", title="largest difference", spec=".1e"),
    )
    note = (
        f"Seconds: median of {run.runs} alternating runs after one warm-up. Both ways use the same "
        "weights and return the same tokens; 'dense' projects every cell of every high-res grid and keeps "
        "the complete ones."
    )
    table = Table(title="Projector stage of one picture", columns=columns, rows=rows)
    return Report(command=command, facts=facts, tables=(table,), notes=(note,))


@torch.inference_mode()
def _measure_row(
    run: ProjectorRun, preset: Preset, projector: VilaHDProjector, looks: int
) -> dict[str, Cell]:
    """Time both ways on the same features."""
    index_1K, grids = choose_patches(preset, looks, seed=run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    dtype = getattr(torch, run.dtype)
    features_1KC = torch.randn(1, index_1K.shape[1], preset.width, generator=generator).to(dtype)
    ways: dict[str, Callable[[], Tensor]] = {
        "gathered": lambda: project_gathered(projector, features_1KC, index_1K, grids),
        "dense": lambda: project_dense(projector, features_1KC, index_1K, grids),
    }
    tokens = {name: way() for name, way in ways.items()}
    difference = _require_equal(tokens["gathered"], tokens["dense"], dtype)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(run.runs):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "preset": preset.name, "looks": looks, "chosen": index_1K.shape[1],
        "patches": sum(rows * columns for rows, columns in grids), "tokens": len(tokens["gathered"]),
        **median, "speedup": median["dense"] / median["gathered"], "difference": difference,
    }  # fmt: skip


def _require_equal(gathered: Tensor, dense: Tensor, dtype: torch.dtype) -> float:
    """Largest absolute difference of the tokens; refuse to compare the time of different results."""
    if gathered.shape != dense.shape:
        raise VilaHDError(f"gathered gives {len(gathered)} tokens and dense {len(dense)}: not comparable")
    difference = float((gathered.float() - dense.float()).abs().max())
    # bf16 keeps 8 bits: sums of the same products in another order differ by a few units of the largest.
    allowed = 16 * torch.finfo(dtype).eps * max(1.0, float(dense.float().abs().max()))
    if not difference <= allowed:
        raise VilaHDError(f"gathered and dense tokens differ by {difference:.2e}, more than {allowed:.2e}")
    return difference
