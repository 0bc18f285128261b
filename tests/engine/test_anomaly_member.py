"""A member of an anomaly run from start to end, and its report."""

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anomaly_run import make_store

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.paths import RunPaths
from lenshpc.plan import expand, save_plan, scored_rows
from lenshpc.recipe import Recipe


@pytest.fixture
def trained(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = Recipe(
        name="strange",
        task="anomaly",
        models=("lens_ae",),
        folds=2,
        method={"crop": 16},
        train={"batch_size": 8, "epochs": 2, "lr": 1e-3},
    )
    plan, splits = expand(recipe, make_store(tmp_path))
    run = RunPaths(tmp_path / "runs" / plan.run_name)
    save_plan(run, plan, splits)
    run_member(run, 0, Signals())
    yield run, plan, splits
    torch.set_num_threads(before)


def test_member_scores_all_splits_and_keeps_its_reconstructions(trained):
    run, plan, splits = trained
    files = run.member(plan.members[0].name)
    frame = pd.read_parquet(files.predictions)
    expected = scored_rows(plan, splits, plan.members[0])
    pd.testing.assert_frame_equal(frame[["row", "id", "split"]], expected[["row", "id", "split"]])
    assert frame["split"].value_counts().to_dict() == {
        "test": 60,
        "aside": 40,
        "train": 20,
        "oof": 20,
    }
    scores = ["mse", "rel_mse", "ssim_error"]
    assert list(frame)[3:] == ["loss", *scores, *(f"rot90_{name}" for name in scores)]
    drawn = zarr.open_array(files.arrays, path="reconstruction", mode="r")
    assert drawn.shape == (140, 1, 16, 16)
    assert np.isfinite(drawn[:]).all()
    history = pd.read_json(files.metrics, lines=True)
    assert set(history) >= {"train_loss", "val_loss"}
    assert "val_auc" not in history
