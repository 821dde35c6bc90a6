"""Commands and examples of docs/training.md are ones that the programs take."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from train import launch
from train.lora import LoraConfig
from vila_hd.utils.config import from_dict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text().replace("\\\n", " ")
LAUNCHERS = ("python", "deepspeed", "torchrun", "sbatch")


def commands():
    """Arguments of ``train`` in every line of a console block that starts it."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] and words[0] in LAUNCHERS and ("train" in words or words[0] == "sbatch"):
                start = (
                    words.index("train") + 1
                    if "train" in words
                    else words.index("train/slurm/train.sbatch") + 1
                )
                yield tuple(words[start:])


@pytest.mark.parametrize("arguments", list(commands()), ids=" ".join)
def test_command_is_understood(arguments):
    parsers = {"recipe": launch.build_recipe_parser, "plan": launch.build_plan_parser}
    if arguments[0] in parsers:
        parsers[arguments[0]]().parse_args(arguments[1:])
    else:
        launch.build_parser().parse_args(arguments)


def test_there_are_commands():
    assert len(list(commands())) >= 8


def test_example_of_adapters_is_valid():
    (block,) = (b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "lora:" in b)
    config = from_dict(LoraConfig, yaml.safe_load(block)["lora"])
    assert (config.rank, config.components, config.bits, config.merge) == (16, ("llm",), None, True)


def test_files_that_are_named_exist():
    for name in set(re.findall(r"(?:configs|train|tests)/[\w/]+\.(?:py|yaml|json|sbatch|example)", PAGE)):
        assert (ROOT / name).is_file(), name
