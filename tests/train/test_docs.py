"""Commands and examples of docs/regions.md and configs/data are ones that the programs take."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from train import import_ps3, init_ps3
from train import launch as train_launch
from train.curate import command as curate
from train.data.region_rows import parse_captions
from train.region_config import RegionDataConfig
from vila_hd.utils.config import from_dict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/regions.md").read_text()
PARSERS = {
    "train.curate": curate.build_parser,
    "train.import_ps3": import_ps3.build_parser,
    "train.init_ps3": init_ps3.build_parser,
    "train": train_launch.build_parser,
}
DATA_FILES = sorted((ROOT / "configs/data").glob("*.yaml"))


def commands(text):
    return re.findall(r"^\W*((?:python -m|deepspeed --module) train\S* .*)$", text, re.MULTILINE)


ALL = [line for text in (PAGE, *(path.read_text() for path in DATA_FILES)) for line in commands(text)]


@pytest.mark.parametrize("line", ALL, ids=lambda line: line[:60])
def test_command_is_understood(line):
    _, _, module, *arguments = shlex.split(line)
    PARSERS[module]().parse_args(arguments)


def test_there_are_commands():
    assert len(ALL) > 12


def test_example_row_is_valid():
    (row,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    assert len(parse_captions(row).boxes) == 1


def test_example_sources_are_valid():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = from_dict(RegionDataConfig, yaml.safe_load(block)["data"]["regions"])
    assert [source.weight for source in config.sources] == [3.0, 1.0]


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.stem)
def test_data_files_say_where_sets_come_from(path):
    content = yaml.safe_load(path.read_text())
    assert content["name"] == path.stem
    for name, entry in content["sets"].items():
        assert {"id", "licence", "download"} <= set(entry), name
        assert {"weight", "rate"} & set(entry), name
