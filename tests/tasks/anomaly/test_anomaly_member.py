"""A member of an anomaly run from start to end, and its report."""

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anomaly_run import make_store

from lenshpc.engine.load import load_model
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.files import read_json
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, save_plan, scored_rows, splits_hash
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store


@pytest.fixture
def planned(tmp_path):
    recipe = Recipe(
        name="strange",
        task="anomaly",
        models=("lens_ae",),
        folds=2,
        data={"crop": 16},
        train={"batch_size": 8, "epochs": 2, "lr": 1e-3},
    )
    plan, splits = expand(recipe, make_store(tmp_path))
    return RunPaths(tmp_path / "runs" / plan.run_name), plan, splits


@pytest.fixture
def trained(planned):
    run, plan, splits = planned
    save_plan(run, plan, splits)
    run_member(run, 0, Signals())
    return run, plan, splits


def test_member_scores_all_splits_and_keeps_its_reconstructions(trained):
    run, plan, splits = trained
    files = run.member(plan.members[0].name)
    frame = pd.read_parquet(files.predictions)
    expected = scored_rows(plan, splits, plan.members[0]).astype({"split": "str"})
    pd.testing.assert_frame_equal(frame[["row", "id", "split"]], expected[["row", "id", "split"]])
    assert frame["split"].value_counts().to_dict() == {
        "test": 60,
        "excluded": 40,
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


def test_training_row_of_another_class_is_refused_before_training(planned):
    run, plan, splits = planned
    altered = splits.copy()
    row = altered.index[altered["split"] == "excluded"][0]
    altered.loc[row, ["split", "fold"]] = ["dev", 1]
    other = plan.model_copy(update={"splits_hash": splits_hash(altered)})
    run = RunPaths(run.root.with_name(other.run_name))
    save_plan(run, other, altered)
    with pytest.raises(DataError, match="rows of class class1 came to training or validation"):
        run_member(run, 0, Signals())
    assert not run.member(plan.members[0].name).checkpoint.exists()


@torch.no_grad()
def test_loaded_model_finds_the_losses_of_the_members_files(trained):
    run, plan, _ = trained
    files = run.member(plan.members[0].name)
    done, frame = read_json(files.done), pd.read_parquet(files.predictions)
    pixels = open_store(plan.store).read(frame["row"].to_numpy()[:8])
    top, left = ((side - 16) // 2 for side in pixels.shape[2:])
    images = torch.from_numpy(pixels[:, :, top : top + 16, left : left + 16])
    mean, std = (torch.tensor(done[key])[:, None, None] for key in ("mean", "std"))
    found = load_model(run.root, 0)((images - mean) / std)
    np.testing.assert_allclose(found, frame["loss"][:8], rtol=1e-5)


def test_model_that_is_not_there_is_refused(trained):
    run, _, _ = trained
    with pytest.raises(IncompleteError, match=r"member 1 of run strange-\w+ is not done;"):
        load_model(run.root, 1)
    with pytest.raises(ConfigError, match="has members 0 to 1"):
        load_model(run.root, 2)
