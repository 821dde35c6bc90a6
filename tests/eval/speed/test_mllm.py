"""Sizes, counts and the command of the comparison of whole models."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, Qwen2Config
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from eval.launch import main
from eval.speed.mllm import MllmRun, compare, flops_of, subjects_of, verdict, whole_flops
from eval.speed.mllm_presets import PRESETS, LanguageSize, qwen_grid
from eval.speed.mllm_worker import build, qwen
from vila_hd.errors import VilaHDError
from vila_hd.options import Pruning

JOB = {
    "preset": "tiny", "dtype": "float32", "device": "cpu", "threads": 1, "seed": 0, "size": (3840, 2160),
    "max_pixels": 100_000, "batch": 2, "new": 3,
}  # fmt: skip


@pytest.mark.parametrize("size", [(3840, 2160), (640, 480), (100, 50), (5000, 300), (28, 28)])
@pytest.mark.parametrize("limit", [4_000_000, 12_845_056, 50_000])
def test_qwen_s_grid_is_that_of_its_image_processor(size: tuple[int, int], limit: int) -> None:
    width, height = size
    rows, columns = smart_resize(height, width, factor=28, min_pixels=1, max_pixels=limit)
    assert qwen_grid(width, height, limit) == (rows // 14, columns // 14)


def test_the_paper_s_cap_gives_five_thousand_tokens() -> None:
    assert qwen_grid(3840, 2160, 4_000_000) == (106, 190)


def test_rows_of_the_command_are_the_paper_s_shares() -> None:
    peer, *ours, anyres, s2, pruned = subjects_of(MllmRun(preset="0.5b", prune=("tome:0.5",)))
    assert peer.name == "Qwen2.5-VL"
    assert [subject.name for subject in ours] == [f"VILA-HD {n}%" for n in (6, 12, 18, 35)]
    assert [subject.job["budget"] for subject in ours] == [5120, 10240, 15360, 30720]
    assert [anyres.name, s2.name, pruned.name] == ["AnyRes", "S2", "all, tome:0.5"]
    assert {subject.job["budget"] for subject in (anyres, s2, pruned)} == {"all"}


def test_operations_of_the_language_model_are_what_torch_counts() -> None:
    size = LanguageSize(width=32, depth=3, intermediate=48, heads=4, key_value_heads=2, vocabulary=40)
    model = AutoModel.from_config(Qwen2Config(**size.config()), attn_implementation="eager")
    tokens = 20
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, tokens, dtype=torch.long))
    above_the_diagonal = 3 * 2 * tokens * tokens * 32  # counted by torch, left out by causal kernels
    assert counter.get_total_flops() == pytest.approx(size.flops(tokens) + above_the_diagonal, rel=0.01)


def test_operations_of_qwen_s_tower_are_what_torch_counts() -> None:
    model, given, _ = qwen({**JOB, "batch": 1})
    model.set_attn_implementation("eager")
    grid = given["image_grid_thw"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.visual(given["pixel_values"], grid_thw=grid)
    size, patches = PRESETS["tiny"].qwen, int(grid.prod())
    outside = 2 * patches * 1176 * 64 + 2 * (patches // 4) * (256 * 256 + 256 * 64)
    # Windows at the edge are smaller than 64 patches.
    assert counter.get_total_flops() == pytest.approx(size.flops(patches) + outside, rel=0.03)


def test_our_operations_grow_with_the_budget_and_shrink_with_pruning() -> None:
    preset = PRESETS["0.5b"]
    counts = [flops_of(preset, budget) for budget in (5120, 10240, 15360)]
    assert counts == sorted(counts)
    whole, pruned = (flops_of(preset, 87480, p) for p in (None, Pruning(method="tome", keep=0.25)))
    assert pruned < whole


@pytest.mark.parametrize(
    ("kind", "squares", "tokens"), [("anyres", 16, 64), ("s2", 21, 64), ("low_res", 1, 4)]
)
def test_encoders_of_whole_pictures_run_with_the_tokens_that_are_counted(
    kind: str, squares: int, tokens: int
) -> None:
    with torch.inference_mode():
        job = {**JOB, "batch": 1, "subject": "vila_hd", "encoder": kind, "budget": "all", "prune": None}
        assert build(job)().tokens == tokens
    preset = PRESETS["tiny"]
    expected = squares * preset.tower.flops(0) + preset.language.flops(tokens + 32)
    assert whole_flops(preset, kind) == expected


def row(who: str, first: float, share: float | None = None) -> dict:
    return {"who": who, "batch": 1, "first": first, "first_cpu": 2 * first, "tflop": first, "share": share}


@pytest.mark.parametrize(("seconds", "word"), [(2.0, "is reached"), (2.1, "is not reached")])
def test_the_target_is_told_as_it_is(seconds: float, word: str) -> None:
    rows = compare(
        [row("Qwen2.5-VL", 10.0), row("VILA-HD 18%", seconds, 0.1756), row("VILA-HD 6%", 1.0, 0.06)]
    )
    assert [entry["first_ratio"] for entry in rows] == [1.0, 10 / seconds, 10.0]
    (line,) = verdict(rows)
    assert word in line
    assert f"{10 / seconds:.2f} times" in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "'huge' is unknown: use one of 7b, 0.5b, small, tiny"),
        (["--preset", "tiny", "--looks", "0"], "--looks [0]"),
        (["--preset", "tiny", "--prune", "tome"], "pruning 'tome'"),
        (["--preset", "tiny", "--encoders", "ps3"], "--encoders ps3: use some of low_res, anyres, s2"),
        (["--preset", "tiny", "--max-pixels", "5"], "--max-pixels 5: use 784 or more"),
    ],
)
def test_mistakes_are_one_line_and_status_2(argv: list[str], message: str, capsys) -> None:
    assert main(["speed", "mllm", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_rows_is_refused() -> None:
    with pytest.raises(VilaHDError, match="--batches"):
        MllmRun(preset="tiny", batches=())


@pytest.mark.slow
def test_the_command_measures_every_row(tmp_path, capsys) -> None:
    argv = ["--preset", "tiny", "--runs", "1", "--threads", "1", "--looks", "2", "--prune", "fastv:0.5"]
    argv += ["--encoders", "--max-pixels", "100000", "--json", str(tmp_path / "report.json")]
    assert main(["speed", "mllm", *argv, "--batches", "1", "2"]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["tables"][0]["rows"]
    assert [row["who"] for row in rows[:3]] == ["Qwen2.5-VL", "VILA-HD 3%", "all, fastv:0.5"]
    assert [row["batch"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert [row["tokens"] for row in rows[:3]] == [rows[3]["tokens"], rows[4]["tokens"], rows[5]["tokens"]]
    assert all(row["first"] > 0 and row["rate"] > 0 and row["peak"] > row["added"] > 0 for row in rows)
    assert "first token s" in capsys.readouterr().out
