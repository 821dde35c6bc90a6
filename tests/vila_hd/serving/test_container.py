"""Dockerfile and compose file: what they name exists, and what they promise is there. Nothing is built."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from vila_hd.cli.parsers import command_parser

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def step(name):
    return [rest for kind, rest in STEPS if kind == name]


def test_only_known_instructions():
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK"}
    assert {kind for kind, _ in STEPS} <= known | {"STOPSIGNAL", "ENTRYPOINT", "CMD"}


def test_copied_files_exist_and_are_sent_to_the_builder():
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for rest in step("COPY") for name in shlex.split(rest)[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in copied)


def test_setup_needs_no_other_file():
    """``setup.py`` reads the readme and the version, and names the licence."""
    named = set(re.findall(r'"([A-Z]+(?:\.md)?|version\.py)"', (ROOT / "setup.py").read_text()))
    assert {"README.md", "LICENSE", "version.py"} <= named


def test_the_extras_exist():
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', TEXT)
    tree = ast.parse((ROOT / "setup.py").read_text())
    known = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS"
    )
    assert set(extras.split(",")) <= set(known)
    assert "serve" in extras


def test_the_command_is_understood():
    program, name, *options = yaml.safe_load(step("ENTRYPOINT")[0])
    args = command_parser(name).parse_args([*options, *yaml.safe_load(step("CMD")[0])])
    assert program == "vila-hd"
    assert (args.host, str(args.port), args.model) == ("0.0.0.0", step("EXPOSE")[0], "nano")


def test_nothing_runs_as_root():
    users = step("USER")
    assert users == ["vila"]
    names = [kind for kind, _ in STEPS]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


def test_the_health_check_is_python_that_asks_the_server():
    (check,) = step("HEALTHCHECK")
    program, flag, code = yaml.safe_load(check.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    ast.parse(code)
    assert f"http://127.0.0.1:{step('EXPOSE')[0]}/health" in code


@pytest.mark.parametrize("name", ["cpu", "gpu"], ids=["first", "second"])  # "gpu" would be skipped
def test_services(name):
    service = COMPOSE["services"][name]
    build = service["build"] if isinstance(service["build"], dict) else {"context": service["build"]}
    assert (ROOT / build["context"] / "Dockerfile").exists()
    assert set(build.get("args", {})) <= {rest.partition("=")[0] for rest in step("ARG")}
    assert service["profiles"] == [name]
    assert service["ports"] == [f"127.0.0.1:8000:{step('EXPOSE')[0]}"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert [volume.split(":") for volume in service["volumes"]] == [["cache", step("VOLUME")[0]]]
    command = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in service["command"]]
    assert command_parser("serve").parse_args(command).model == "nano"
    assert "VILA_HD_API_KEY" in service["environment"]


def test_the_gpu_service_asks_for_one_and_for_torch_with_cuda():
    gpu = COMPOSE["services"]["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert gpu["build"]["args"]["TORCH_INDEX"] == ""
    assert "deploy" not in COMPOSE["services"]["cpu"]


def test_answers_may_end_before_the_container_is_killed():
    assert (
        int(COMPOSE["services"]["cpu"]["stop_grace_period"].removesuffix("s"))
        > command_parser("serve").parse_args([]).grace
    )
