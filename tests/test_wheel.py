"""The wheel carries all that a plain `pip install` must bring."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS_OF_PAGES = {".html", ".css", ".js"}
FIND = """
from lenshpc.config import find_shipped
print({folder: list(find_shipped(folder)) for folder in ("jobs", "slurm", "data_prep")})
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_in_an_empty_environment_shows_help_and_finds_what_ships(tmp_path: Path) -> None:
    tree, wheels = tmp_path / "tree", tmp_path / "wheels"  # a build leaves files in its tree
    skipped = shutil.ignore_patterns(".*", "build", "demo", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=skipped)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", wheels, tree]
    run(*build, cwd=tmp_path)
    (wheel,) = wheels.glob("lenshpc-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    pages = [path for path in (ROOT / "lenshpc").rglob("*.*") if path.suffix in PARTS_OF_PAGES]
    assert {str(path.relative_to(ROOT)) for path in pages} < names
    assert "lenshpc/slurm/cluster.sh" in names
    schemas = {f"lenshpc/schemas/{kind}.json" for kind in ("recipe", "dataset", "site")}
    assert schemas < names
    assert len([name for name in names if name.endswith(".safetensors")]) == 2
    entries = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"lens-finding" in zipfile.ZipFile(wheel).read(entries)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"lenshpc"}

    run(sys.executable, "-m", "venv", "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    light = ["click", "pydantic", "pyyaml"]  # all that help and recipes need
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    run(*install, "--no-deps", wheel, cwd=tmp_path)
    run(*install, *light, cwd=tmp_path)
    shown = run(python.with_name("lenshpc"), "--help", cwd=tmp_path)
    assert "aggregate" in shown
    shipped = {
        folder: sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
        for folder in ("jobs", "slurm", "data_prep")
    }
    assert run(python, "-c", FIND, cwd=tmp_path) == f"{shipped}\n"
