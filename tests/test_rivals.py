"""The benchmarks' rivals can be installed: pip finds versions of all that they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("rivals-*.txt"))
PIP = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")

pytestmark = pytest.mark.slow  # asks the package index


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the newest pip: older ones download wheels only to read versions."""
    folder = tmp_path_factory.mktemp("pip")
    subprocess.run([*PIP, "--target", folder, "pip"], check=True)
    return folder


def resolve(pip: Path, *wanted: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PIP, "--dry-run", "--ignore-installed", *wanted]
    environment = os.environ | {"PYTHONPATH": str(pip)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_versions_of_the_rivals_go_together(file: Path, newest: Path) -> None:
    done = resolve(newest, "-r", file)
    assert done.returncode == 0, done.stderr


def test_versions_that_conflict_are_found(newest: Path) -> None:
    done = resolve(newest, "zarr==3.1.6", "numpy<1.26")
    assert done.returncode == 1
    assert "conflicting dependencies" in done.stderr
