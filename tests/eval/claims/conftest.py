"""A pair of towers with random weights in a folder, as pre-training leaves them, and small scenes."""

import pytest
import torch

from eval.claims.regions import held_out
from eval.claims.training import CONFIGS
from train.assembly import build_ps3
from train.stage_files import load_model_file
from vila_hd.scenes import SceneConfig


@pytest.fixture(scope="session")
def pictures():
    return list(held_out(2, SceneConfig(size=(960, 960), num_objects=4, tiers={"texture": 1.0})))


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    model, tokenizer, processor = build_ps3(load_model_file(CONFIGS / "model" / "ps3.yaml"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, copy_tokenizer=True)
    processor.save_pretrained(folder)
    return str(folder)
