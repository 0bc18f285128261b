import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from lenshpc.aggregate.classification import curves, evaluate, find_mistakes


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
    found = evaluate("model", rows, probabilities)
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


def test_scores_of_three_classes_agree_with_scikit_learn():
    rows, probabilities = draw(3)
    found = evaluate("model", rows, probabilities)
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
    expected = evaluate("model", rows, probabilities).threshold
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = rows.copy()
        other.loc[120:, "label"] = rng.permutation(other.loc[120:, "label"])
        found = evaluate("model", other, probabilities)
        assert found.threshold == expected
        assert found.oof == evaluate("model", rows, probabilities).oof


def test_threshold_never_moves_with_test_probabilities():
    rows, probabilities = draw(2)
    expected = evaluate("model", rows, probabilities).threshold
    probabilities[120:] = probabilities[120:][::-1]
    assert evaluate("model", rows, probabilities).threshold == expected


def test_uncovered_rows_are_left_out_and_counted():
    rows, probabilities = draw(2)
    whole = evaluate("model", rows.drop(index=range(40)), probabilities[40:])
    probabilities[:40] = np.nan
    found = evaluate("model", rows, probabilities)
    assert (found.oof.num_covered, found.oof.num_rows) == (80, 120)
    assert (found.threshold, found.oof.auc) == (whole.threshold, whole.oof.auc)
    assert found.test == whole.test


def test_model_without_any_covered_row_has_no_figures():
    rows, probabilities = draw(2)
    found = evaluate("model", rows, np.full_like(probabilities, np.nan))
    assert found.threshold is None
    assert found.curves == ()
    figures = (found.test.auc, found.test.f1, found.test.accuracy, found.test.log_loss)
    assert np.isnan(figures).all()
    assert found.test.num_covered == 0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_curves_enclose_the_area(num_classes):
    rows, probabilities = draw(num_classes)
    labels = rows["label"].to_numpy()
    found = curves(labels, probabilities)
    assert [curve.label for curve in found] == ([1] if num_classes == 2 else [0, 1, 2])
    for curve in found:
        area = oracle.auc(curve.false_positive_rate, curve.true_positive_rate)
        expected = oracle.roc_auc_score(labels == curve.label, probabilities[:, curve.label])
        assert area == pytest.approx(expected)


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
