import json

import pytest
import torch

from eval.launch import main
from eval.speed.presets import get_preset
from eval.speed.projector import (
    ProjectorRun,
    choose_patches,
    make_projector,
    project_dense,
    project_gathered,
)
from vila_hd.errors import VilaHDError

PRESET = get_preset("tiny-4x")


@pytest.mark.parametrize("looks", [1, 3])
def test_both_ways_return_the_same_tokens(looks):
    projector = make_projector(PRESET, 16, seed=0)
    index, grids = choose_patches(PRESET, looks, seed=1)
    features = torch.randn(1, index.shape[1], PRESET.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gathered = project_gathered(projector, features, index, grids)
        dense = project_dense(projector, features, index, grids)
    assert len(gathered) > 0
    torch.testing.assert_close(gathered, dense)


def test_the_choice_is_unique_ascending_and_within_the_budget():
    index, grids = choose_patches(PRESET, 2, seed=0)
    assert index.shape == (1, 2 * PRESET.pass_budget)
    assert (index[0].diff() > 0).all()
    assert int(index.max()) < sum(rows * columns for rows, columns in grids)


def test_main_prints_the_table_with_its_command(capsys, tmp_path):
    argv = ["speed", "projector", "--preset", "tiny-4x", "--dtype", "float32", "--text-width", "16"]
    argv += ["--threads", "1", "--runs", "1", "--looks", "2", "--json", str(tmp_path / "out.json")]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("$ python -m eval speed projector --preset tiny-4x")
    row = json.loads((tmp_path / "out.json").read_text())["tables"][0]["rows"][0]
    assert row["speedup"] == pytest.approx(row["dense"] / row["gathered"])
    assert f"{row['speedup']:.1f}" in printed


def test_impossible_numbers_are_refused():
    with pytest.raises(VilaHDError, match="--looks"):
        ProjectorRun(preset="tiny-4x", looks=(0,))
    with pytest.raises(VilaHDError, match="--text-width 0"):
        ProjectorRun(preset="tiny-4x", text_width=0)
