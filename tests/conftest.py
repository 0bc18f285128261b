"""What all tests share: a small store that can be learnt, and a run without any training."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from spots import write_store
from synthetic_run import SyntheticRun, make_run

from lenshpc.run.paths import RunPaths
from lenshpc.store import Store

os.environ["OMP_NUM_THREADS"] = "1"  # of tests and of what they start: idle threads spin
LONGER_S = {"slurm": 1200, "gpu": 1200, "slow": 2400}  # than all other tests may take


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limits = [limit for name, limit in LONGER_S.items() if item.get_closest_marker(name)]
        if limits:
            item.add_marker(pytest.mark.timeout(max(limits)))


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of two classes: 96 rows to train on, 24 to test on."""
    labels = np.arange(120) % 2
    return write_store(
        tmp_path_factory.mktemp("stores") / "spots", labels, ["train"] * 96 + ["test"] * 24
    )


@pytest.fixture
def seeded() -> None:
    """Begin with the same random numbers of torch."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pristine_run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    """Return a run of two models and three folds, its members' files drawn at random."""
    return make_run(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def run(
    pristine_run: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SyntheticRun:
    """Return a copy of it to damage at will, in ./runs."""
    root = tmp_path / "runs" / pristine_run.paths.name
    shutil.copytree(pristine_run.paths.root, root)
    monkeypatch.chdir(tmp_path)
    return replace(pristine_run, paths=RunPaths(root))
