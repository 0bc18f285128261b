"""What a member sees of a store: nothing of its validation fold, of test rows or of anomalies."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from stores import write_rows

from lenshpc.data.fold import open_fold
from lenshpc.run.plan import expand
from lenshpc.run.recipe import Recipe
from lenshpc.store import Pixels, StoreSpec, open_store

NUM_TRAIN, NUM_TEST, SIDE = 60, 12, 12
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def images():
    return np.random.default_rng(0).random((NUM_TRAIN + NUM_TEST, 1, SIDE, SIDE), np.float32)


def stored(path: Path, pixels: np.ndarray):
    """Return a store in which one row in four is of the rare class."""
    rows = pd.DataFrame({"label": (np.arange(len(pixels)) % 4 == 0).astype(int)})
    rows["split"] = ["train"] * NUM_TRAIN + ["test"] * NUM_TEST
    rows["id"] = rows["group"] = [f"{index}.npy" for index in range(len(rows))]
    spec = StoreSpec(
        dataset="lens_finding",
        classes=("nonlens", "lens"),
        image=Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("grey",)),
        seed=0,
    )
    write_rows(path, spec, rows, pixels)
    return open_store(path)


def folds(store, **settings):
    recipe = Recipe(name="lens", task="lens-finding", models=("resnet18",), folds=3, **settings)
    plan, splits = expand(recipe, store)
    return plan, splits


def seen(store, plan, splits):
    """Return mean and deviation of the first member's fold, and its first training batch."""
    with open_fold(plan, plan.members[0], splits, store, CPU) as data:
        prepared = data.source.preparation
        batch = next(data.training_batches(0, rank=0, world_size=1, done=0))
        return float(prepared.mean[0]), float(prepared.std[0]), batch["image"].numpy()


@pytest.mark.parametrize("data", [{}, {"stretch": "sqrt"}, {"crop": 8}])
def test_normalisation_is_that_of_the_training_rows_alone(tmp_path, data):
    store = stored(tmp_path / "store", images())
    plan, splits = folds(store, data=data)
    first = seen(store, plan, splits)
    training = (splits["split"] == "dev") & (splits["fold"] != 0)
    pixels = store.read(slice(None)).astype(np.float64)[splits.loc[training, "row"]]
    if "crop" in data:
        pixels = pixels[:, :, 2:10, 2:10]
    values = np.sqrt(pixels) if "stretch" in data else pixels
    np.testing.assert_allclose(first[:2], [values.mean(), values.std()], rtol=1e-6)

    others = splits.loc[~training, "row"].to_numpy()
    changed = store.read(slice(None))
    changed[others] += 5
    other = stored(tmp_path / "changed", np.ascontiguousarray(changed))
    assert np.array_equal(other.rows["id"], store.rows["id"])
    second = seen(other, plan, splits)
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first[2], second[2])

    changed[splits.loc[training, "row"].to_numpy()[0]] += 5
    third = seen(stored(tmp_path / "third", np.ascontiguousarray(changed)), plan, splits)
    assert third[0] > second[0]


@pytest.mark.parametrize("space", ["pixel", "feature"])
def test_synthetic_rows_are_seen_in_training_alone(tmp_path, space):
    store = stored(tmp_path / "store", images())
    smote = {"space": space, "ratio": 1.0, "neighbours": 3}
    plan, splits = folds(store, method={"smote": smote})
    for member in plan.members:
        with open_fold(plan, member, splits, store, CPU) as data:
            trained = data.training.rows
            made = trained[trained >= store.num_rows]
            labels = data.source.labels[trained]
            assert len(made) == 30 - 10  # 30 common and 10 rare rows: as many of each afterwards
            assert (labels == 1).sum() == (labels == 0).sum() == 30
            pairs = data.source.pairs
            parents = [*pairs.first(made), *pairs.second(made)]
            inside = splits[(splits["split"] == "dev") & (splits["fold"] != member.fold)]
            assert set(parents) <= set(inside.loc[inside["label"] == 1, "row"])
            assert max(data.val_rows.max(), data.scored["row"].max()) < store.num_rows
            assert not set(trained) & set(data.scored["row"])
