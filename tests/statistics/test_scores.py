import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from lenshpc.statistics import scores as classification
from lenshpc.statistics.scores import curves, draw_splits, find_mistakes, reliability


def score(name, rows, probabilities, **settings):
    return classification.score_model(
        name, rows, probabilities, draw_splits(rows, seed=0), **settings
    )


def draw(num_classes, num_rows=240):
    rng = np.random.default_rng(0)
    labels = np.arange(num_rows) % num_classes
    raw = rng.random((num_rows, num_classes))
    raw[np.arange(num_rows), labels] += 0.4
    split = np.repeat(["oof", "test"], num_rows // 2)
    rows = pd.DataFrame({"row": np.arange(num_rows), "id": "x", "label": labels, "split": split})
    return rows, raw / raw.sum(axis=1, keepdims=True)


def test_scores_of_two_classes_agree_with_scikit_learn():
    rows, probabilities = draw(2)
    found = score("model", rows, probabilities)
    test = slice(120, None)
    labels, scores = rows["label"].to_numpy()[test], probabilities[test, 1]
    predicted = scores >= found.threshold
    assert found.test.auc == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert found.test.class_auc == (found.test.auc,)
    assert found.test.auc_low < found.test.auc < found.test.auc_high
    assert found.test.pr_auc == pytest.approx(oracle.average_precision_score(labels, scores))
    assert found.test.accuracy == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert found.test.f1 == pytest.approx(oracle.f1_score(labels, predicted))
    assert found.test.precision == pytest.approx(oracle.precision_score(labels, predicted))
    assert found.test.recall == pytest.approx(oracle.recall_score(labels, predicted))
    assert found.test.log_loss == pytest.approx(oracle.log_loss(labels, probabilities[test]))
    expected = oracle.confusion_matrix(labels, predicted)
    np.testing.assert_array_equal(found.test.confusion, expected)
    assert (found.test.num_rows, found.oof.num_covered) == (120, 120)
    assert found.test.num_negatives == (60,)
    report = oracle.classification_report(labels, predicted, output_dict=True)
    for line in found.test.classes:
        expected = report[str(line.label)]
        assert (line.precision, line.recall, line.f1, line.support) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"], expected["support"])
        )
    assert found.test.classes[0].auc == pytest.approx(found.test.auc)
    expected = oracle.average_precision_score(labels == 0, probabilities[test, 0])
    assert found.test.classes[0].pr_auc == pytest.approx(expected)
    for name, (low, high) in found.test.intervals.items():
        assert low <= getattr(found.test, name) <= high
    assert set(found.test.intervals) == {
        *("auc", "pr_auc", "tpr10", "tpr_at_fpr_1e3", "accuracy", "balanced_accuracy"),
        *("precision", "recall", "f1", "log_loss", "brier"),
    }


def test_scores_of_three_classes_agree_with_scikit_learn():
    rows, probabilities = draw(3)
    found = score("model", rows, probabilities)
    labels, values = rows["label"].to_numpy()[:120], probabilities[:120]
    predicted = values.argmax(axis=1)
    assert found.threshold is None
    assert found.oof.auc == pytest.approx(oracle.roc_auc_score(labels, values, multi_class="ovr"))
    assert found.oof.class_auc == pytest.approx(
        [oracle.roc_auc_score(labels == k, values[:, k]) for k in range(3)]
    )
    assert found.oof.f1 == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(found.oof.confusion, oracle.confusion_matrix(labels, predicted))


def test_threshold_never_moves_with_test_labels():
    rows, probabilities = draw(2)
    expected = score("model", rows, probabilities).threshold
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = rows.copy()
        other.loc[120:, "label"] = rng.permutation(other.loc[120:, "label"])
        found = score("model", other, probabilities)
        assert found.threshold == expected
        assert found.oof == score("model", rows, probabilities).oof


def test_threshold_never_moves_with_test_probabilities():
    rows, probabilities = draw(2)
    expected = score("model", rows, probabilities).threshold
    probabilities[120:] = probabilities[120:][::-1]
    assert score("model", rows, probabilities).threshold == expected


def test_uncovered_rows_are_left_out_and_counted():
    rows, probabilities = draw(2)
    whole = score("model", rows.drop(index=range(40)), probabilities[40:])
    probabilities[:40] = np.nan
    found = score("model", rows, probabilities)
    assert (found.oof.num_covered, found.oof.num_rows) == (80, 120)
    assert (found.threshold, found.oof.auc) == (whole.threshold, whole.oof.auc)
    assert found.test == whole.test


def test_model_without_any_covered_row_has_no_figures():
    rows, probabilities = draw(2)
    found = score("model", rows, np.full_like(probabilities, np.nan))
    assert found.threshold is None
    assert found.curves == ()
    figures = (found.test.auc, found.test.f1, found.test.accuracy, found.test.log_loss)
    assert np.isnan(figures).all()
    assert found.test.num_covered == 0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_curves_enclose_the_area(num_classes):
    rows, probabilities = draw(num_classes)
    labels = rows["label"].to_numpy()
    resamples = draw_splits(rows.assign(split="test"))["test"]
    found = curves(labels, probabilities, resamples)
    assert [curve.label for curve in found] == ([1] if num_classes == 2 else [0, 1, 2])
    for curve in found:
        area = oracle.auc(curve.false_positive_rate, curve.true_positive_rate)
        expected = oracle.roc_auc_score(labels == curve.label, probabilities[:, curve.label])
        assert area == pytest.approx(expected)
        inside = np.interp(curve.fpr_grid, curve.false_positive_rate, curve.true_positive_rate)
        assert ((curve.tpr_low <= inside) & (inside <= curve.tpr_high)).mean() > 0.9
        assert curve.tpr_high[-1] == curve.tpr_low[-1] == 1
        assert (curve.precision_low <= curve.precision_high).all()


def test_curves_of_many_rows_are_thinned_to_their_ends():
    rows, probabilities = draw(2, num_rows=4000)
    (curve,) = score("model", rows, probabilities).curves
    assert len(curve.recall) == len(curve.precision) == classification.MAX_POINTS
    assert (curve.recall[0], curve.recall[-1]) == (1, 0)


def test_corrected_threshold_follows_the_declared_prior_only():
    rows, probabilities = draw(2)
    plain = score("model", rows, probabilities)
    assert plain.corrected is None
    other = rows.copy()
    other.loc[120:, "label"] = 0
    found = [score("model", one, probabilities, test_prior=0.01) for one in (rows, other)]
    odds = plain.threshold / (1 - plain.threshold) * 99  # 1:1 out-of-fold, 1:99 declared
    assert found[0].corrected.threshold == pytest.approx(odds / (1 + odds))
    assert found[0].corrected.threshold == found[1].corrected.threshold
    assert found[0].threshold == plain.threshold
    predicted = probabilities[120:, 1] >= found[0].corrected.threshold
    expected = oracle.recall_score(rows["label"][120:], predicted)
    assert found[0].corrected.recall == pytest.approx(expected)


def test_declared_prior_equal_to_the_out_of_fold_one_changes_nothing():
    rows, probabilities = draw(2)
    found = score("model", rows, probabilities, test_prior=0.5)
    assert found.corrected.threshold == pytest.approx(found.threshold)
    assert found.corrected.confusion == found.test.confusion
    assert found.corrected.intervals["f1"] == found.test.intervals["f1"]


def test_rotation_is_the_change_of_auc():
    rows, probabilities = draw(2)
    turned = 0.5 * probabilities + 0.5 * draw(2)[1][::-1]
    found = score("model", rows, probabilities, turned=turned)
    expected = oracle.roc_auc_score(rows["label"][120:], turned[120:, 1])
    assert found.rotation.auc == pytest.approx(expected)
    assert found.rotation.change == pytest.approx(expected - found.test.auc)
    assert found.rotation.change_low < found.rotation.change < found.rotation.change_high
    same = score("model", rows, probabilities, turned=probabilities).rotation
    assert (same.change, same.change_low, same.change_high) == (0, 0, 0)


def test_reliability_has_wilsons_interval():
    labels = np.array([0] * 8 + [1] * 2)
    found = reliability(labels, np.tile([0.7, 0.3], (10, 1)))
    np.testing.assert_array_equal(found.counts, [10])
    np.testing.assert_allclose([found.predicted, found.observed], [[0.3], [0.2]])
    # Wilson 1927 at z = 1.96: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    z = 1.959964
    middle, half = 0.2 + z**2 / 20, z * np.sqrt(0.2 * 0.8 / 10 + z**2 / 400)
    expected = np.array([[middle - half], [middle + half]]) / (1 + z**2 / 10)
    np.testing.assert_allclose([found.low, found.high], expected, atol=1e-6)


def test_groups_of_rows_widen_the_interval():
    rows, probabilities = draw(2)
    labels = rows["label"].astype(str)
    grouped = rows.assign(group=labels + "/" + (rows["row"] // 12).astype(str))
    probabilities = probabilities[rows["row"] // 12 * 12 + rows["label"]]  # equal within a group
    widths = [
        np.diff(score("model", one, probabilities).test.intervals["auc"])[0]
        for one in (rows, grouped)
    ]
    assert widths[1] > 1.8 * widths[0]


def test_mistakes_begin_with_the_least_probable_true_class():
    labels, scores = [0, 1, 0, 1, 1], np.array([0.9, 0.2, 0.3, 0.05, 0.8])
    rows = pd.DataFrame(
        {"row": range(5), "id": list("abcde"), "label": labels, "split": ["oof", *["test"] * 4]}
    )
    found = find_mistakes(rows, np.stack([1 - scores, scores], axis=1), threshold=0.25)
    expected = [
        {"row": 3, "id": "d", "label": 1, "predicted": 0, "p_true": 0.05, "p_predicted": 0.95},
        {"row": 1, "id": "b", "label": 1, "predicted": 0, "p_true": 0.2, "p_predicted": 0.8},
        {"row": 2, "id": "c", "label": 0, "predicted": 1, "p_true": 0.7, "p_predicted": 0.3},
    ]
    assert found.to_dict("records") == expected
