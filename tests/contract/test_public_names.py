"""Names that code outside this repository uses; taking one away is a breaking change."""

import re
from pathlib import Path

import vila_hd

ROOT = Path(__file__).resolve().parents[2]


def test_every_public_name_exists():
    missing = [name for name in vila_hd.__all__ if not hasattr(vila_hd, name)]
    assert not missing


def test_the_names_of_the_readme_s_quick_start_are_public():
    assert {"load", "ask", "stream", "compose", "HighResOptions", "VilaHDError", "__version__"} <= set(
        vila_hd.__all__
    )


def test_the_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", vila_hd.__version__)


def test_both_libraries_are_marked_as_typed():
    assert (ROOT / "vila_hd" / "py.typed").exists()
