"""Optional packages: found, missing, broken; and callbacks after an import."""

import sys

import pytest

from vila_hd.errors import VilaHDError
from vila_hd.utils.imports import OutermostImports, after_import, import_optional, is_installed


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the import path; write modules into it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def message_of(name: str) -> str:
    with pytest.raises(VilaHDError) as caught:
        import_optional(name, extra="train", purpose="a test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_package_that_is_there_is_returned(packages):
    (packages / "fx_good.py").write_text("value = 7")
    assert is_installed("fx_good")
    assert import_optional("fx_good", extra="train", purpose="a test").value == 7


def test_a_missing_package_names_the_extra_that_installs_it():
    assert not is_installed("fx_missing")
    assert (
        message_of("fx_missing")
        == "fx_missing (needed for a test) is not installed: pip install 'vila-hd[train]'"
    )


def test_a_package_that_misses_another_names_the_other(packages):
    (packages / "fx_half.py").write_text("import fx_other.part")
    message = message_of("fx_half")
    assert "missing package 'fx_other'" in message
    assert "pip install fx_other" in message


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
def test_a_package_built_for_something_else_says_why(packages, error):
    (packages / "fx_broken.py").write_text(f"raise {error}('undefined symbol\\nmore')")
    message = message_of("fx_broken")
    assert "does not import (undefined symbol)" in message


def test_is_installed_does_not_import(packages):
    (packages / "fx_quiet.py").write_text("raise SystemExit")
    assert is_installed("fx_quiet")
    assert "fx_quiet" not in sys.modules


def test_is_installed_knows_modules_without_a_spec(monkeypatch):
    module = type(sys)("fx_by_hand")
    monkeypatch.setitem(sys.modules, "fx_by_hand", module)
    assert is_installed("fx_by_hand")


def test_a_callback_runs_once_right_after_the_import(packages):
    (packages / "fx_late.py").write_text("steps = ['module']")
    seen = []
    after_import("fx_late", lambda: seen.append(list(sys.modules["fx_late"].steps)))
    assert seen == []
    import fx_late

    assert seen == [["module"]]
    del sys.modules["fx_late"]
    __import__("fx_late")
    assert len(seen) == 1
    assert fx_late.__spec__.loader is not None


def test_a_callback_runs_at_once_for_what_is_imported_already():
    seen = []
    after_import("sys", lambda: seen.append(1))
    assert seen == [1]


def test_two_callbacks_of_one_module_both_run(packages):
    (packages / "fx_twice.py").write_text("")
    seen = []
    after_import("fx_twice", lambda: seen.append("first"))
    after_import("fx_twice", lambda: seen.append("second"))
    __import__("fx_twice")
    assert sorted(seen) == ["first", "second"]


def test_waiting_for_a_module_that_does_not_exist_changes_nothing():
    after_import("fx_never", lambda: None)
    with pytest.raises(ModuleNotFoundError):
        __import__("fx_never")


@pytest.fixture
def watched(packages, monkeypatch):
    """A package of three modules, and what a callback saw of it each time it ran."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (packages / "fx_box").mkdir()
    (packages / "fx_box" / "__init__.py").write_text("")
    (packages / "fx_box" / "outer.py").write_text("from . import inner\nis_whole = True")
    (packages / "fx_box" / "inner.py").write_text("")
    (packages / "fx_box" / "broken.py").write_text("from . import inner\n1 / 0")
    seen = []
    watch = OutermostImports(
        "fx_box", lambda: seen.append(hasattr(sys.modules.get("fx_box.outer"), "is_whole"))
    )
    yield watch, seen
    for name in [name for name in sys.modules if name.startswith("fx_box")]:
        del sys.modules[name]


def test_a_package_is_left_alone_until_none_of_its_modules_is_half_imported(watched):
    watch, seen = watched
    __import__("fx_box")
    assert seen == []
    __import__("fx_box.outer")
    assert seen == [True]
    __import__("fx_box.outer")
    assert seen == [True]
    assert watch.is_idle


def test_a_module_that_does_not_import_runs_no_callback(watched):
    watch, seen = watched
    with pytest.raises(ZeroDivisionError):
        __import__("fx_box.broken")
    assert seen == []
    assert watch.is_idle
