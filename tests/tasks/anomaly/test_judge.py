"""How members' scores are merged and judged."""

from types import SimpleNamespace

import numpy as np
import pytest
from anomaly_run import make_run, make_store
from scipy.stats import wasserstein_distance
from sklearn.metrics import average_precision_score, roc_auc_score

from lenshpc.errors import ConfigError, DataError
from lenshpc.run.plan import expand
from lenshpc.run.recipe import Recipe
from lenshpc.run.values import pack, unpack
from lenshpc.statistics.bootstrap import draw
from lenshpc.tasks.anomaly import baselines
from lenshpc.tasks.anomaly import judge as anomaly
from lenshpc.tasks.anomaly.baselines import (
    BOOSTING,
    NEIGHBOUR,
    PCA_ERROR,
    RING,
    fit_components,
    score_baselines,
)
from lenshpc.tasks.anomaly.merge import MergedScores, merge_scores


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("strange"))


@pytest.fixture(scope="module")
def merged(strange):
    return merge_scores(strange.paths, strange.plan, strange.splits)


def scaled(frame, column="mse"):
    own = frame.loc[frame["split"] == "oof", column]
    low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
    return (frame.set_index(["split", "row"])[column].astype(float) - middle) / (high - low)


def test_merged_rows_are_those_of_every_split(merged):
    counts = merged.rows.groupby(["split", "label"]).size().to_dict()
    assert counts == {
        ("train", 0): 40,
        ("oof", 0): 40,
        ("excluded", 1): 40,
        ("test", 0): 30,
        ("test", 1): 30,
    }
    assert list(merged.values) == [
        "conv_ae rel_mse",
        "conv_ae mse",
        "conv_ae ssim_error",
        "wae rel_mse",
        "wae mse",
        "wae ssim_error",
        "ensemble",
    ]
    assert merged.heads == {"conv_ae": "conv_ae rel_mse", "wae": "wae rel_mse"}
    assert merged.headline == "ensemble"


def test_scores_are_means_over_members_on_one_scale(strange, merged):
    first, second = (scaled(strange.predictions(index)) for index in (0, 1))
    places = merged.rows.set_index(["split", "row"]).index
    mean = np.nanmean([first.reindex(places), second.reindex(places)], axis=0)
    np.testing.assert_allclose(merged.values["conv_ae mse"], mean, rtol=1e-6)
    heads = [merged.values[line] for line in merged.heads.values()]
    np.testing.assert_allclose(merged.values["ensemble"], np.mean(heads, axis=0))


def test_figures_are_those_of_scikit_learn_and_scipy(merged):
    line = next(
        one for one in anomaly.score_models(merged, quantile=0.9) if one.name == "conv_ae mse"
    )
    values, split = merged.values[line.name], merged.rows["split"].to_numpy()
    assert line.threshold == pytest.approx(np.quantile(values[split == "oof"], 0.9))
    parts = {
        "training": ["train", "excluded"],
        "validation": ["oof", "excluded"],
        "test": ["test"],
    }
    assert list(line.parts) == list(parts)
    for part, splits in parts.items():
        mine, found = np.isin(split, splits), line.parts[part]
        score, strange = values[mine], merged.anomalous[mine]
        assert found.auc == pytest.approx(roc_auc_score(strange, score))
        assert found.average_precision == pytest.approx(average_precision_score(strange, score))
        assert found.wasserstein == pytest.approx(
            wasserstein_distance(score[~strange], score[strange])
        )
        assert found.recall == np.mean(score[strange] > line.threshold)
        assert found.false_positives == np.mean(score[~strange] > line.threshold)
        assert found.auc_low < found.auc < found.auc_high
    test = split == "test"
    auc = roc_auc_score(merged.anomalous[test], merged.turned[line.name][test])
    assert line.rotation.auc == pytest.approx(auc)
    assert line.rotation.change == pytest.approx(auc - line.parts["test"].auc)


def test_the_threshold_does_not_see_other_classes(merged):
    other = MergedScores(
        rows=merged.rows,
        anomalous=merged.anomalous,
        values={
            name: np.where(merged.anomalous, 1e3, values) for name, values in merged.values.items()
        },
        turned=merged.turned,
        heads=merged.heads,
    )
    before, after = (anomaly.score_models(one, quantile=0.95) for one in (merged, other))
    assert [one.threshold for one in before] == [one.threshold for one in after]


def test_part_without_anomalies_has_no_auc():
    normal, values = np.zeros(5, bool), np.arange(5.0)
    resamples = draw(np.zeros(5, int), None, num_resamples=10, seed=0)
    found = anomaly.part_scores(normal, values, resamples, threshold=3.0)
    assert (found.num_normal, found.num_anomalous, found.false_positives) == (5, 0, 0.2)
    assert np.isnan([found.auc, found.auc_low, found.recall, found.wasserstein]).all()


def test_missing_member_leaves_its_rows_empty(strange):
    missing = [member for member in strange.plan.members if member.fold == 0]
    some = merge_scores(strange.paths, strange.plan, strange.splits, missing)
    folds = strange.splits.set_index("row")["fold"].reindex(some.rows["row"]).to_numpy()
    assert set(folds[(some.rows["split"] == "oof").to_numpy()]) == {1}
    assert all(np.isfinite(values).all() for values in some.values.values())


def test_foreign_rows_and_infinite_scores_are_refused(tmp_path):
    run = make_run(tmp_path, models=("conv_ae",))
    good = run.predictions(1)
    for frame, fault in (
        (good.iloc[1:], "does not predict 'train/0.npy'"),
        (good.assign(split="test"), "another id or split than the manifest"),
        (good.assign(mse=np.float32(np.inf)), "not finite"),
        (good.drop(columns="split"), "cannot be read"),
        (good.drop(columns="rot90_mse"), "cannot be read"),
    ):
        run.finish(1, frame)
        with pytest.raises(DataError, match=f"member 1 .*{fault}.*lenshpc resume"):
            merge_scores(run.paths, run.plan, run.splits)


def test_baselines_are_blind_where_they_were_fitted(strange, merged, tmp_path):
    store = make_store(tmp_path)
    scores = score_baselines(store, strange.splits, merged.rows, crop=24)
    assert list(scores) == [PCA_ERROR, NEIGHBOUR, RING, BOOSTING]
    folds = strange.splits.set_index("row")["fold"].reindex(merged.rows["row"]).to_numpy()
    normal = ~merged.anomalous & ~merged.part("test")
    for name in (PCA_ERROR, NEIGHBOUR, RING):
        np.testing.assert_array_equal(np.isnan(scores[name]), normal & (folds != 0))
    np.testing.assert_array_equal(np.isnan(scores[BOOSTING]), ~merged.part("test"))


def test_baselines_of_a_large_store_score_some_rows(strange, merged, tmp_path, monkeypatch):
    store = make_store(tmp_path)
    whole = score_baselines(store, strange.splits, merged.rows, crop=24)
    seen = np.flatnonzero(np.arange(store.num_rows) % 5 < 3)
    monkeypatch.setattr(baselines, "choose_rows", lambda _: seen)
    scores = score_baselines(store, strange.splits, merged.rows, crop=24)
    mine = merged.rows["row"].isin(seen).to_numpy()
    for name, values in scores.items():
        np.testing.assert_array_equal(np.isnan(values), np.isnan(whole[name]) | ~mine)
    for name in (PCA_ERROR, NEIGHBOUR):
        np.testing.assert_allclose(scores[name][mine], whole[name][mine])


def test_neighbours_and_components_find_what_is_foreign():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.1, (60, 1, 16, 16)) + rng.normal(size=(60, 1, 1, 1))
    images[50:, :, 4:12, 4:12] += 3
    store = SimpleNamespace(num_rows=60, read=lambda rows: images[rows])
    scores = fit_components(store, np.arange(40), crop=None, places=np.arange(60))
    foreign = np.arange(60)[40:] >= 50
    assert roc_auc_score(foreign, scores[PCA_ERROR][40:]) == 1
    assert roc_auc_score(foreign, scores[NEIGHBOUR][40:]) == 1


def test_most_and_least_anomalous_are_test_rows(merged):
    places = anomaly.most_and_least(merged, "conv_ae mse", 3)
    values = merged.values["conv_ae mse"]
    test = np.flatnonzero(merged.part("test"))
    assert places == {
        "most": test[np.argsort(-values[test])][:3].tolist(),
        "least": test[np.argsort(values[test])][:3].tolist(),
    }


def test_store_without_the_normal_class_is_refused(tmp_path):
    store = make_store(tmp_path)
    recipe = Recipe(name="x", task="anomaly", models=("conv_ae",), method={"normal": "no_sub"})
    with pytest.raises(ConfigError, match=r"method\.normal"):
        expand(recipe, store)


def test_lines_that_are_kept_come_back_as_they_were(merged):
    found = pack(anomaly.score_models(merged, quantile=0.9))
    again = pack(unpack(anomaly.Lines, found))
    assert {name: values.tobytes() for name, values in again.items()} == {
        name: values.tobytes() for name, values in found.items()
    }
