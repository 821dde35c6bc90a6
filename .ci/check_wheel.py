"""Build the wheel and check what is in it: the two libraries, their data files, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vila_hd", "llava_compat")


def build(target: Path) -> zipfile.ZipFile:
    """The wheel of the working tree, opened. Uses the setuptools of this environment: no network."""
    # setuptools copies whatever an earlier build left in build/lib into the new wheel.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", str(target), str(ROOT)], check=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def expected_files() -> set[str]:
    """Files of the two libraries in the working tree that belong in the wheel."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    return found


def main() -> int:
    """0 when the wheel holds exactly the files of the two libraries; else 1 after saying what differs."""
    target = ROOT / "build" / "wheel"
    try:
        names = {name for name in build(target).namelist() if ".dist-info/" not in name}
    finally:
        shutil.rmtree(ROOT / "build", ignore_errors=True)
    expected = expected_files()
    if names == expected:
        assets = sum(name.startswith("vila_hd/assets/") for name in names)
        print(f"wheel: {len(names)} files, {assets} of them assets")
        return 0
    for name in sorted(expected - names):
        print(
            f"error: {name} is not in the wheel; add it to packages or package_data in setup.py",
            file=sys.stderr,
        )
    for name in sorted(names - expected):
        print(
            f"error: {name} is in the wheel but belongs to neither {' nor '.join(PACKAGES)}", file=sys.stderr
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
