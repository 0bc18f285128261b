import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lenshpc.paths import RunPaths

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/, where synthetic_run.py lies

from synthetic_run import make_run


@pytest.fixture(scope="session")
def pristine_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def run(pristine_run, tmp_path, monkeypatch):
    """A run of two models and three folds to damage at will, in ./runs."""
    root = tmp_path / "runs" / pristine_run.paths.name
    shutil.copytree(pristine_run.paths.root, root)
    monkeypatch.chdir(tmp_path)
    return replace(pristine_run, paths=RunPaths(root))
