"""What is declared: dependencies are pinned, the applications stay out of the wheel, make targets exist."""

import ast
import re
import subprocess
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def setup_arguments() -> dict[str, ast.expr]:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    return {keyword.arg: keyword.value for keyword in calls[0].keywords if keyword.arg}


def extras() -> dict[str, list[str]]:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS"
    ]
    return ast.literal_eval(values[0])


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(
        line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#")
    )


def test_extras_are_the_documented_ones():
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| extra | for |\n")[1].split("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(extras()) == sorted(names)


def test_everything_that_setup_installs_is_pinned_inside_its_range():
    wanted = ast.literal_eval(setup_arguments()["install_requires"])
    wanted += [
        line for extra in ("train", "eval", "demo", "browser", "serve", "dev") for line in extras()[extra]
    ]
    known = pins()
    for line in wanted:
        requirement = Requirement(line)
        version = known.get(requirement.name.lower().replace("_", "-"))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{version} is outside of {line}"


def test_torch_is_pinned_to_the_build_that_exists_for_the_cpu():
    assert pins()["torch"] == "2.13.0"


def test_required_packages_exclude_the_optional_stacks():
    names = {
        Requirement(line).name.lower() for line in ast.literal_eval(setup_arguments()["install_requires"])
    }
    assert not names & {
        "torchvision",
        "timm",
        "deepspeed",
        "gradio",
        "wandb",
        "datasets",
        "flash-attn",
        "peft",
    }


def test_every_make_target_of_the_help_exists():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = re.findall(r"^make (\S+)", done.stdout, re.MULTILINE)
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"quickstart", "test", "check", "setup", "nano"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", text, re.MULTILINE), target


def test_a_missing_python_is_one_clear_line(tmp_path):
    for name in ("setup.py", "constraints.txt", "Makefile"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "PYTHON=", "setup"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "error: no Python >= 3.11 found" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_the_licence_is_the_whole_apache_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) > 11_000
