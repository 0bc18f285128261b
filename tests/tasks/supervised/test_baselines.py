from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from lenshpc.errors import DataError
from lenshpc.run.predictions import evaluated_rows
from lenshpc.run.results import gather
from lenshpc.store import open_store
from lenshpc.tasks.supervised import baselines
from lenshpc.tasks.supervised.baselines import brightness, predict_baseline, predict_baselines
from lenshpc.tasks.supervised.judge import evaluate


def test_brightness_is_mean_and_deviation():
    pixels = np.random.default_rng(0).normal(size=(5, 2, 8, 8))
    moments = np.stack([pixels.mean(axis=(2, 3)), (pixels**2).mean(axis=(2, 3))], axis=-1)
    expected = np.concatenate([pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))], axis=1)
    np.testing.assert_allclose(brightness(moments), expected)


def test_each_fold_is_fitted_on_its_own_training_rows():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 2)) + labels[:, None]
    folds = np.repeat([0, 1, -1, -1], 10)
    split = np.repeat(["dev", "test"], [30, 10])
    splits = pd.DataFrame(
        {"row": np.arange(40), "id": "", "label": labels, "split": split, "fold": folds}
    )
    found = predict_baseline(features, splits, 2)

    def by_hand(training, asked):
        center, scale = features[training].mean(axis=0), features[training].std(axis=0)
        model = LogisticRegression().fit((features[training] - center) / scale, labels[training])
        return model.predict_proba((features[asked] - center) / scale)

    dev, test = np.arange(30), np.arange(30, 40)
    rest = [dev[(dev // 10) != fold] for fold in (0, 1)]
    np.testing.assert_allclose(found[:10], by_hand(rest[0], dev[:10]), atol=1e-6)
    np.testing.assert_allclose(found[10:20], by_hand(rest[1], dev[10:20]), atol=1e-6)
    mean = (by_hand(rest[0], test) + by_hand(rest[1], test)) / 2
    np.testing.assert_allclose(found[20:], mean, atol=1e-6)


def test_baselines_cover_all_evaluated_rows_and_say_how_far_they_are(run):
    said = []
    found = predict_baselines(run.plan, run.splits, open_store(run.plan.store), said.append)
    assert list(found) == [
        "baseline (mean and std)",
        "baseline (minus median pixel)",
        "baseline (ring radius)",
        "baseline (boosting on seven radial numbers)",
    ]
    for values in found.values():
        assert values.shape == (150, 2)
        np.testing.assert_allclose(values.sum(axis=1), 1)
    assert said == ["measured 150 of 150 images for the baselines"]


def test_baselines_of_a_large_store_are_fitted_and_judged_on_some_rows(run, monkeypatch):
    store = open_store(run.plan.store)
    seen = np.flatnonzero(np.arange(150) % 7 < 4)
    monkeypatch.setattr(baselines, "choose_rows", lambda _: seen)
    found = predict_baselines(run.plan, run.splits, store)
    rows = evaluated_rows(run.splits)["row"].to_numpy()
    some = run.splits.iloc[seen].reset_index(drop=True)
    moments = store.column("moments")[seen]
    expected = predict_baseline(brightness(moments), some, 2)
    values = found["baseline (mean and std)"]
    np.testing.assert_array_equal(values[np.isin(rows, seen)], expected)
    for values in found.values():
        np.testing.assert_array_equal(np.isnan(values).any(axis=1), ~np.isin(rows, seen))


def test_baselines_of_another_store_are_refused(run):
    plan = run.plan.model_copy(update={"store_hash": "0" * 64})
    results = replace(gather(run.paths, run.plan, {}, allow_partial=False), plan=plan)
    with pytest.raises(DataError, match="no longer the store"):
        _ = results.store
    found = evaluate(replace(results, splits=run.splits))
    assert "no longer the store" in found.absent
    assert "baseline" not in {one.kind for one in found.scores.evaluations}
