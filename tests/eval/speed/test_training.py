"""The straightforward way computes the same features, and both workers run through the command."""

import json

import pytest
import torch

from eval.launch import main
from eval.speed import training
from eval.speed.plain_pretraining import DensePS3Model, FloatPictures
from eval.speed.training import TrainRun, make_table, summarise, write_shard
from vila_hd.errors import VilaHDError
from vila_hd.options import HighResOptions
from vila_hd.ps3.configuration_ps3_dual import PS3Config
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.regions import Regions

SMALL = {"scales": (28, 56, 112, 280), "budgets": (4, 8, 20), "width": 16, "depth": 1}


def test_dense_way_computes_the_same_features():
    config = PS3Config.from_dict(TrainRun(**SMALL).config(30))
    torch.manual_seed(0)
    plain = DensePS3Model(config).eval()
    for table in plain.vision_model.pos_emb_residual:
        torch.nn.init.normal_(table)
    ours = PS3Model(config).eval()
    ours.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 280, 280) * 2 - 1
    maps = torch.zeros(2, 280, 280)
    maps[0, 50:90, 100:160] = maps[1, 200:230, 10:40] = 1
    call = {"options": HighResOptions(budget=32), "regions": Regions.from_maps(maps)}
    ids = torch.randint(0, 30, (2, 16))
    with torch.no_grad():
        one, two = plain(images, ids, **call), ours(images, ids, **call)
    assert torch.equal(one.vision.selection.index, two.vision.selection.index)
    torch.testing.assert_close(one.image_embeds, two.image_embeds, atol=1e-4, rtol=1e-4)


def test_pictures_of_the_plain_loader_are_whole_floats(tmp_path):
    write_shard(tmp_path / "a.tar", pictures=2, size=(1280, 720), seed=0)
    image, box, caption, number = FloatPictures(tmp_path / "a.tar", rows=4, side=112, seed=0)[3]
    assert image.shape == (3, 112, 112)
    assert image.dtype == box.dtype == torch.float32
    assert 0 < float(box.mean()) < 0.2
    assert caption
    assert number == 1


def test_numbers_of_the_table_follow_from_the_steps():
    step = {"seconds": 2.0, "cpu_seconds": 3.0, "items": 8, "moved_bytes": 8_000_000}
    ours = summarise([step, {**step, "seconds": 4.0}, step], {"peak_bytes": 1_000_000})
    plain = summarise([{**step, "seconds": 8.0, "moved_bytes": 80_000_000}], {"peak_bytes": 3_000_000})
    assert (ours["rate"], ours["moved"]) == (4.0, 1_000_000)
    *_, ratio = make_table({"ours": ours, "plain": plain}).rows
    assert (ratio["rate"], ratio["moved"], ratio["peak"]) == (4.0, 10.0, 3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 6}, "--pairs 6 is not a multiple"),
        ({"runs": 0}, "--runs 0"),
        ({"width": 20}, "--width 20"),
        ({"regions": 8}, "--regions 8"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(VilaHDError, match=message):
        TrainRun(**options)


@pytest.mark.slow
def test_command_measures_both_ways(tmp_path, monkeypatch, capsys):
    original = training.run_training
    small = {"scales": SMALL["scales"], "budgets": SMALL["budgets"]}

    def run_small(run, *, command):
        tiny = TrainRun(**{**vars(run), **small})
        return original(tiny, command=command, size=(1280, 720))

    monkeypatch.setattr(training, "run_training", run_small)
    arguments = ["--width", "16", "--depth", "1", "--pairs", "4", "--pictures", "2", "--runs", "1"]
    assert main(["speed", "train", *arguments, "--json", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["tables"][0]["rows"]
    assert [row["who"] for row in rows] == ["straightforward", "vila-hd", "ratio"]
    # 280 x 280 pixels: 3 floats and one of the map against 3 bytes shared by 4 regions.
    assert rows[0]["moved"] == pytest.approx(280 * 280 * 16 / 1e6)
    assert rows[2]["moved"] > 16
