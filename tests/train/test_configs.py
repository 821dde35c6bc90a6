"""Every shipped file loads, and what does not fit together is refused."""

import argparse
import itertools
import json
from pathlib import Path

import pytest

from train.recipe import plan_stages
from train.stage_files import load_model_file, load_recipe, load_stage
from vila_hd.errors import VilaHDError

CONFIGS = Path(__file__).parents[2] / "configs"
STAGES = sorted(
    path
    for pattern in ("train/*/*.yaml", "claims/*.yaml")
    for path in CONFIGS.glob(pattern)
    if not path.name.startswith("_")
)
MODELS = sorted(path for pattern in ("model/*.yaml", "claims/model/*.yaml") for path in CONFIGS.glob(pattern))
RECIPES = sorted(CONFIGS.glob("train/*.yaml"))


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_shipped_stage_loads(path):
    config = load_stage(path)
    assert (CONFIGS.parent / config.deepspeed).is_file()
    assert config.accumulation_steps(1 if path.parent.name == "claims" else 2) >= 1


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shipped_model_file_loads(path):
    assert load_model_file(path).name == path.stem


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("deepspeed/*.json")), ids=lambda path: path.stem)
def test_shipped_deepspeed_file_has_the_stage_of_its_name(path):
    assert path.stem.split("_")[0] == f"zero{json.loads(path.read_text())['zero_optimization']['stage']}"


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_stages_of_a_recipe_follow_each_other(path, smoke, tmp_path):
    options = argparse.Namespace(smoke=smoke, output_dir=tmp_path, overrides=["seed=7"])
    stages = plan_stages(load_recipe(path), path.parent, options)
    first = stages[0].model
    # A baseline starts from the tower of another recipe.
    assert first.suffix == ".yaml" or first.name.startswith("ps3_init") or "ps3_pretrain" in first.parts
    for before, after in itertools.pairwise(stages):
        assert after.model == before.output_dir / "model"
    assert {stage.seed for stage in stages} == {7}
    assert len({stage.output_dir for stage in stages}) == len(stages)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["micro_batch_size=7"], "global_batch_size=12 is not a multiple of micro_batch_size=7"),
        (["trainable=[]"], "trainable is empty"),
        (["trainable=[tower]"], r"trainable\[0\]: expected one of"),
        (["optim.component_lr={llm: 1e-3}"], r"optim.component_lr names \['llm'\]"),
        (["optim.lr=0"], "lr=0.0"),
        (["contrastive.global_share=2"], "global_share=2.0"),
        (["contrastive.close_ups=0.5"], "close_ups=0.5: only with global_instead=true"),
        (["data.picture_repeats=2", "data.block_size=25"], "data.block_size=25"),
        (["stage=finetune"], "stage: expected one of 'ps3_pretrain'"),
        (["looks.forced_share=1.5"], "forced_share=1.5"),
        (["looks.least_share=0"], "least_share=0.0"),
        (["max_steps=0"], "max_steps=0"),
        (["stage=sft", "looks.guided_by=saliency"], "gives the selector nothing to learn from"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(VilaHDError, match=message):
        load_stage(CONFIGS / "train" / "nano" / "ps3_pretrain.yaml", overrides)


def test_name_must_be_the_file_name(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text((CONFIGS / "train/nano/read.yaml").read_text())
    (tmp_path / "_base.yaml").write_text((CONFIGS / "train/nano/_base.yaml").read_text())
    with pytest.raises(VilaHDError, match="name is 'read', expected 'other'"):
        load_stage(path)


def test_uneven_split_over_processes_is_refused():
    config = load_stage(CONFIGS / "train" / "nano" / "sft.yaml")
    with pytest.raises(ValueError, match="x 5 processes"):
        config.accumulation_steps(5)
