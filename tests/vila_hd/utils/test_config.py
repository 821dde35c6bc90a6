"""The strict YAML loader: what fits is built, what does not fit is named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vila_hd.errors import VilaHDError
from vila_hd.utils import config


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "constant"] = "cosine"


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    optim: Optim
    steps: int = 10
    budget: int | Literal["all"] = 4
    scales: tuple[int, ...] = ()
    folder: Path | None = None
    flag: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} is negative")


GOOD = {"name": "x", "optim": {"lr": 1}}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_exponent_strings_become_floats(tmp_path):
    path = write(tmp_path, "a.yaml", "name: a\noptim: {lr: 1e-3, betas: [1e-1, 1]}\n")
    run = config.load(Run, path)
    assert run.optim.lr == 1e-3
    assert run.optim.betas == (0.1, 1.0)


def test_base_is_merged_under_the_child_and_overrides_win(tmp_path):
    write(tmp_path, "base.yaml", "name: base\nsteps: 5\noptim: {lr: 1.0, schedule: constant}\n")
    path = write(tmp_path, "child.yaml", "base: base.yaml\nname: child\noptim: {lr: 2.0}\n")
    run = config.load(Run, path, ["optim.lr=3e-4", "scales=[1, 2]", "rates.llm=2"])
    assert (run.name, run.steps, run.optim) == ("child", 5, Optim(lr=3e-4, schedule="constant"))
    assert run.scales == (1, 2)
    assert run.rates == {"llm": 2.0}


def test_circular_base_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(VilaHDError, match="circle"):
        config.load(Run, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optim": {"lr": 1, "learning_rate": 2}},
            r"optim: unknown key\(s\) \['learning_rate'\]; known: .*'lr'",
        ),
        ({"optim": {}}, r"missing value\(s\) \['optim.lr'\]"),
        ({"optim": {"lr": "fast"}}, r"optim.lr: expected a number, got 'fast'"),
        ({"optim": {"lr": 1, "betas": [1]}}, r"optim.betas: expected a list of 2 values"),
        ({"optim": {"lr": 1, "schedule": "linear"}}, r"optim.schedule: expected one of 'cosine', 'constant'"),
        ({"optim": 3}, r"optim: expected a section \(Optim\), got 3"),
        ({"steps": 1.5}, r"steps: expected int, got 1.5"),
        ({"steps": True}, r"steps: expected int, got True"),
        ({"budget": "some"}, r"budget: expected int or Literal\['all'\], got 'some'"),
        ({"scales": "1,2"}, r"scales: expected a list, got '1,2'"),
        ({"scales": [1, "b"]}, r"scales\[1\]: expected int, got 'b'"),
        ({"flag": "yes please"}, r"flag: expected bool"),
        ({"steps": -1}, r"steps=-1 is negative"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(VilaHDError, match=message):
        config.from_dict(Run, {**GOOD, **change})


@pytest.mark.parametrize("override", ["steps", "=3", "a..b=3", "name.first=3", "steps=[1"])
def test_bad_overrides_are_refused(override):
    with pytest.raises(VilaHDError, match="override"):
        config.apply_override(GOOD, override)


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "base: [x]\n"])
def test_bad_files_are_refused(tmp_path, text):
    with pytest.raises(VilaHDError, match=r"a\.yaml"):
        config.load(Run, write(tmp_path, "a.yaml", text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VilaHDError, match=r"none\.yaml: cannot be read"):
        config.load(Run, tmp_path / "none.yaml")


def test_to_dict_round_trip():
    run = Run(name="x", optim=Optim(lr=1.0), scales=(1,), folder=Path("a/b"), budget="all", rates={"a": 1.0})
    assert config.from_dict(Run, config.to_dict(run)) == run
