"""The doctor's findings about packages, whatever is installed here."""

import sys

import pytest

from vila_hd import doctor


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Writes a module that the doctor's own processes can import, too."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    for name in ("fx_doctor",):
        sys.modules.pop(name, None)


def test_a_package_that_imports_shows_its_version(fake_package):
    finding = doctor.import_finding(fake_package("fx_doctor", "__version__ = '1.2'\nprint('hello')"), "why")
    assert (finding.level, finding.text) == ("ok", "1.2")


def test_torchvision_built_for_another_torch_is_a_problem_with_a_fix(fake_package):
    source = "raise RuntimeError('operator torchvision::nms does not exist')"
    finding = doctor.import_finding(fake_package("fx_doctor", source), "transformers imports it")
    assert finding.level == "problem"
    assert "operator torchvision::nms does not exist" in finding.text
    assert "pip uninstall fx_doctor" in finding.fix


def test_a_package_that_takes_the_process_down_is_a_problem(fake_package):
    finding = doctor.import_finding(fake_package("fx_doctor", "import os; os.abort()"), "why")
    assert finding.level == "problem"
    assert "killed by signal 6" in finding.text


def test_versions_are_compared_with_what_this_package_asks_for(monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda name: ["torch>=99", "fx-absent>=1", "numpy>=1"]
    )
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", versions({"torch": "2.0", "numpy": "2.4", "vila-hd": "1"})
    )
    findings = {finding.topic: finding for finding in doctor.check_requirements()}
    assert [findings[name].level for name in ("torch", "fx-absent", "numpy", "vila-hd")] == [
        "problem", "problem", "ok", "ok"
    ]  # fmt: skip
    assert "needed is >=99" in findings["torch"].text
    assert findings["fx-absent"].fix == "pip install 'fx-absent>=1'"


def versions(known):
    def version(name):
        if name not in known:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return known[name]

    return version


def test_requirements_of_extras_are_not_required(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ['fx-absent; extra == "train"'])
    monkeypatch.setattr(doctor.importlib.metadata, "version", versions({"vila-hd": "1"}))
    assert [finding.topic for finding in doctor.check_requirements()] == ["vila-hd"]


def test_run_from_source_is_said(monkeypatch):
    def missing(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", missing)
    first, *rest = doctor.check_requirements()
    assert (first.level, first.fix) == ("note", "pip install -e .")
    assert {"torch", "transformers"} <= {finding.topic for finding in rest}


def test_kernels_say_which_and_why():
    findings = {finding.topic: finding for finding in doctor.check_kernels()}
    assert "SDPA" in findings["attention"].text
    assert {"gpu", "cpu", "threads"} <= set(findings)


def test_no_check_raises_here():
    for check in (doctor.check_python, doctor.check_pictures, doctor.check_kernels):
        assert list(check())


def test_environment_variables_that_matter_are_shown(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1" in [finding.text for finding in doctor.check_python()]
