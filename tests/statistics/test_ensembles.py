import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lenshpc.statistics import ensembles
from lenshpc.statistics.ensembles import COMBINATIONS, combine, sample_rows


def draw(num_classes=2, num_rows=240, strengths=(1.5, 0.8, 0.0), seed=0):
    """Half of the rows out-of-fold in three folds, half for testing; models of given strengths."""
    rng = np.random.default_rng(seed)
    row = np.arange(num_rows)
    labels = row % num_classes
    testing = row >= num_rows // 2
    rows = pd.DataFrame(
        {
            "row": row,
            "label": labels,
            "split": np.where(testing, "test", "oof"),
            "fold": np.where(testing, -1, row // num_classes % 3),
        }
    )
    models = []
    for strength in strengths:
        raw = np.exp(
            rng.normal(size=(num_rows, num_classes)) + strength * np.eye(num_classes)[labels]
        )
        models.append(raw / raw.sum(axis=1, keepdims=True))
    return rows, models


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_combination_never_moves_with_test_labels(kind, num_classes):
    rows, models = draw(num_classes)
    first = combine(kind, rows, models)
    expected = first.apply(np.array(models))
    rng = np.random.default_rng(1)
    for _ in range(3):
        other = rows.copy()
        other.loc[120:, "label"] = rng.permutation(other.loc[120:, "label"])
        found = combine(kind, other, models)
        assert found.weights == first.weights
        np.testing.assert_array_equal(found.apply(np.array(models)), expected)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_combination_never_moves_with_test_probabilities(kind, num_classes):
    rows, models = draw(num_classes)
    first = combine(kind, rows, models)
    expected = first.apply(np.array(models))
    moved = [np.concatenate([values[:120], values[:119:-1]]) for values in models]
    found = combine(kind, rows, moved)
    assert found.weights == first.weights
    result = found.apply(np.array(moved))
    np.testing.assert_array_equal(result[:120], expected[:120])
    np.testing.assert_allclose(result[120:], expected[:119:-1], atol=1e-12)


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_probability_of_a_row_never_moves_with_its_own_label(kind):
    rows, models = draw()
    expected = combine(kind, rows, models).apply(np.array(models))
    other = rows.copy()
    fold = (rows["fold"] == 1).to_numpy()
    other.loc[fold, "label"] = 1 - other.loc[fold, "label"]
    found = combine(kind, other, models).apply(np.array(models))
    np.testing.assert_array_equal(found[fold], expected[fold])


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_combined_probabilities_add_up(kind, num_classes):
    rows, models = draw(num_classes)
    found = combine(kind, rows, models).apply(np.array(models))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_logit_mean_of_two_classes_is_the_mean_of_logits():
    rows, models = draw()
    logits = [np.log(values[:, 1] / values[:, 0]) for values in models]
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    found = combine("logit_mean", rows, models).apply(np.array(models))
    np.testing.assert_allclose(found[:, 1], expected)


def test_rank_mean_is_the_mean_rank_among_out_of_fold_rows():
    rows, models = draw()
    rows["fold"] = np.where(rows["split"] == "oof", 0, -1)
    found = combine("rank_mean", rows, [*models[:2], models[0]])
    (_, fitted) = found.fittings[-1]
    seen = np.array(models)[[0, 1, 0], :120]
    expected = np.mean([(rankdata(values[:, 1]) - 0.5) / 120 for values in seen], axis=0)
    np.testing.assert_allclose(fitted.apply(seen)[:, 1], expected)


def test_out_of_fold_weights_are_the_odds_of_the_auc():
    rows, models = draw()
    aucs = [roc_auc_score(rows["label"][:120], values[:120, 1]) for values in models]
    odds = np.array(aucs) / (1 - np.array(aucs))
    found = combine("oof_weighted", rows, models)
    np.testing.assert_allclose(found.weights, odds / odds.sum())
    expected = np.tensordot(odds / odds.sum(), np.array(models), axes=1)
    np.testing.assert_allclose(found.apply(np.array(models))[120:], expected[120:])


def test_greedy_selection_is_no_worse_out_of_fold_than_its_best_model():
    rows, models = draw(strengths=(1.2, 1.2, 0.0, 0.0))
    found = combine("greedy", rows, models)
    assert sum(found.weights) == pytest.approx(1)
    assert sum(found.weights[:2]) > 0.8
    labels = rows["label"][:120]
    bag = np.tensordot(found.weights, np.array(models), axes=1)[:120, 1]
    best = max(roc_auc_score(labels, values[:120, 1]) for values in models)
    assert roc_auc_score(labels, bag) >= best


def test_greedy_selection_of_one_perfect_model_takes_it_alone():
    rows, models = draw()
    perfect = np.eye(2)[rows["label"]] * 0.8 + 0.1
    assert combine("greedy", rows, [models[0], perfect, models[1]]).weights == (0, 1, 0)


def test_stacking_agrees_with_scikit_learn_on_logits():
    rows, models = draw()
    logits = np.stack([np.log(values[:, 1] / values[:, 0]) for values in models], axis=1)
    labels, folds = rows["label"].to_numpy(), rows["fold"].to_numpy()
    found = combine("stacking", rows, models).apply(np.array(models))[:, 1]
    for fold in (-1, 0, 1, 2):
        seen, asked = (rows["split"] == "oof").to_numpy() & (folds != fold), folds == fold
        model = LogisticRegression(max_iter=1000).fit(logits[seen], labels[seen])
        np.testing.assert_allclose(found[asked], model.predict_proba(logits[asked])[:, 1])


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_single_fold_is_cut_into_parts(kind):
    rows, models = draw()
    rows["fold"] = np.where(rows["split"] == "oof", 0, -1)
    found = combine(kind, rows, models)
    assert len(found.fittings) == 6
    assert np.isfinite(found.apply(np.array(models))).all()


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_rows_that_a_model_lacks_have_no_value(kind):
    rows, models = draw()
    models[1][5:9] = np.nan
    found = combine(kind, rows, models).apply(np.array(models))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found).any(axis=1)), range(5, 9))


def test_sample_has_each_class_evenly_and_nothing_else(monkeypatch):
    monkeypatch.setattr(ensembles, "FIT_ROWS", 100)
    labels = np.arange(1000) % 10 // 9
    usable = np.arange(1000) >= 200
    some = sample_rows(usable, labels)
    assert len(np.unique(some)) == len(some) == 100
    assert usable[some].all()
    assert (np.diff(some) > 0).all()
    np.testing.assert_array_equal(np.bincount(labels[some]), [90, 10])
    np.testing.assert_array_equal(sample_rows(usable[:300], labels[:300]), np.arange(200, 300))


@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("folds", [1, 3])
def test_combination_fitted_on_a_sample_is_near_that_of_all_rows(kind, folds, monkeypatch):
    rows, models = draw(num_rows=6000, strengths=(1.5, 1.2, 1.0))
    rows["fold"] = np.where(rows["split"] == "oof", rows["row"] % folds, -1)
    expected = combine(kind, rows, models).apply(np.array(models))
    monkeypatch.setattr(ensembles, "FIT_ROWS", 1500)
    monkeypatch.setattr(ensembles, "MAX_STEPS", 500)
    combination = combine(kind, rows, models)
    found = combination.apply(np.array(models))
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 0.02
    assert combination.fittings[0][0].sum() == 3000 // (5 if folds == 1 else 3)


def test_parts_of_many_rows_keep_groups_whole(monkeypatch):
    rows, models = draw()
    rows = rows.assign(fold=np.where(rows["split"] == "oof", 0, -1), group=rows["row"] // 8)
    monkeypatch.setattr(ensembles, "FIT_ROWS", 10)
    *parts, _ = (asked for asked, _ in combine("mean", rows, models).fittings)
    assert (np.sum(parts, axis=0)[:120] == 1).all()
    for part in parts:
        assert rows["group"][part].nunique() == part.sum() / 8 == 3
