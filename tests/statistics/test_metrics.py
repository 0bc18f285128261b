import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as oracle

from lenshpc.statistics import metrics
from lenshpc.statistics.ranking import RankedClass


def draw(num_rows, num_classes, seed=0, decimals=2):
    """Labels of uneven classes and probabilities with many ties that favour the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(
        num_classes, size=num_rows, p=np.arange(1, num_classes + 1) / sum(range(1, num_classes + 1))
    )
    raw = rng.random((num_rows, num_classes)).round(decimals) + 0.01
    raw[np.arange(num_rows), labels] += 0.3
    return labels, raw / raw.sum(axis=1, keepdims=True)


def decisions(labels, predicted, num_classes):
    return metrics.decision_metrics(metrics.confusion_matrix(labels, predicted, num_classes))


@pytest.mark.parametrize("decimals", [1, 9])
def test_ranking_of_two_classes_agrees_with_scikit_learn(decimals):
    labels, probabilities = draw(300, 2, decimals=decimals)
    scores = probabilities[:, 1]
    auc = oracle.roc_auc_score(labels, scores)
    assert metrics.roc_auc(labels, probabilities) == pytest.approx(auc, rel=1e-12)
    assert metrics.roc_auc(labels, scores) == pytest.approx(auc, rel=1e-12)
    assert metrics.ovo_auc(labels, probabilities) == pytest.approx(auc, rel=1e-12)
    expected = oracle.average_precision_score(labels, scores)
    assert metrics.pr_auc(labels, probabilities) == pytest.approx(expected, rel=1e-12)


def test_ranking_of_three_classes_agrees_with_scikit_learn():
    labels, probabilities = draw(300, 3)
    for measure, kind in ((metrics.roc_auc, "ovr"), (metrics.ovo_auc, "ovo")):
        expected = oracle.roc_auc_score(labels, probabilities, multi_class=kind, average="macro")
        assert measure(labels, probabilities) == pytest.approx(expected, rel=1e-12)
    assert metrics.pr_auc(labels, probabilities) == pytest.approx(
        oracle.average_precision_score(labels, probabilities), rel=1e-12
    )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_confusion_matrix_agrees_with_scikit_learn(num_classes):
    labels, probabilities = draw(200, num_classes)
    predicted = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predicted, num_classes),
        oracle.confusion_matrix(labels, predicted),
    )


def test_confusion_matrix_keeps_a_class_that_never_occurs():
    found = metrics.confusion_matrix(np.array([0, 2]), np.array([2, 2]), 3)
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(("num_classes", "average"), [(2, "binary"), (3, "macro")])
def test_decisions_agree_with_scikit_learn(num_classes, average):
    labels, probabilities = draw(200, num_classes)
    predicted = probabilities.argmax(axis=1)
    three = oracle.precision_recall_fscore_support(labels, predicted, average=average)[:3]
    assert decisions(labels, predicted, num_classes) == pytest.approx(
        {
            "accuracy": oracle.accuracy_score(labels, predicted),
            "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
            **dict(zip(("precision", "recall", "f1"), three, strict=True)),
        }
    )


def test_decisions_that_never_find_a_class_are_zero():
    labels, predicted = np.array([0, 1, 1]), np.zeros(3, dtype=int)
    assert decisions(labels, predicted, 2) == pytest.approx(
        {"accuracy": 1 / 3, "balanced_accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0}
    )


def test_decisions_of_no_rows_are_nan():
    assert np.isnan(list(metrics.decision_metrics(np.zeros((2, 2))).values())).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_losses_agree_with_scikit_learn(num_classes):
    labels, probabilities = draw(200, num_classes)
    found = {name: v.mean() for name, v in metrics.row_losses(labels, probabilities).items()}
    brier = oracle.brier_score_loss(
        labels, probabilities if num_classes > 2 else probabilities[:, 1]
    )
    expected = {"log_loss": oracle.log_loss(labels, probabilities), "brier": brier}
    assert found == pytest.approx(expected)


def test_metrics_without_a_positive_row_are_nan():
    labels, probabilities = np.zeros(3, dtype=int), np.full((3, 2), 0.5)
    found = [
        measure(labels, probabilities)
        for measure in (metrics.roc_auc, metrics.ovo_auc, metrics.pr_auc)
    ]
    found += [
        metrics.mean_over_classes(measure, labels, probabilities)
        for measure in (lambda one: one.recall_within(9), lambda one: one.precision_at(0.9))
    ]
    assert np.isnan(found).all()


def test_recall_before_false_positives_counts_ties_against_the_positives():
    labels = np.array([1, 1, 0, 1, 0, 1, 0])
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.1])
    ranked = RankedClass(labels == 1, scores)
    found = [ranked.recall_within(num_false) for num_false in range(4)]
    assert found == [0.25, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_recall_at_a_false_positive_rate_is_a_point_of_the_roc_curve(rate):
    labels, probabilities = draw(300, 2, decimals=1)
    false, true, _ = oracle.roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
    expected = true[false <= rate].max()
    assert metrics.recall_at_fpr(labels, probabilities, rate) == pytest.approx(expected)


def test_precision_at_recall_by_trying_every_cut():
    labels, probabilities = draw(150, 2)
    scores = probabilities[:, 1]
    cuts = [scores >= cut for cut in scores]
    allowed = [
        oracle.precision_score(labels, c) for c in cuts if oracle.recall_score(labels, c) >= 0.9
    ]
    found = RankedClass(labels == 1, scores).precision_at(0.9)
    assert found == pytest.approx(max(allowed))


def test_calibration_error_by_hand():
    """Of 30 rows 15 bins hold 2 each, as long as no two scores are equal."""
    scores = np.arange(30) / 30 + 0.01
    labels = np.array([0, 0, 1] * 10)
    pairs = zip(scores.reshape(15, 2), labels.reshape(15, 2), strict=True)
    expected = np.mean([abs(p.mean() - y.mean()) for p, y in pairs])
    shuffled = np.random.default_rng(0).permutation(30)
    both = np.stack([1 - scores, scores], axis=1)[shuffled]
    found = metrics.expected_calibration_error(labels[shuffled], both)
    assert found == pytest.approx(expected)


def test_calibration_of_true_probabilities_is_small_and_of_squared_ones_is_not():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    labels = (rng.random(20_000) < p).astype(int)
    pairs = [np.stack([1 - q, q], axis=1) for q in (p, p**2)]
    found = [metrics.expected_calibration_error(labels, pair) for pair in pairs]
    assert found[0] < 0.015
    assert found[1] == pytest.approx(1 / 6, abs=0.01)  # the mean of p - p²


def test_calibration_of_three_classes_is_that_of_the_most_probable_one():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    counts, predicted, observed = metrics.calibration_bins(np.array([0, 1, 2]), probabilities)
    np.testing.assert_array_equal(counts, [2, 1])
    np.testing.assert_allclose(predicted, [0.6, 0.8])
    np.testing.assert_allclose(observed, [0.5, 1])


def test_best_f1_threshold_lies_between_scores():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    # From 0.3 on: precision 3/4, recall 1, F1 6/7; no cut does better.
    assert RankedClass(labels == 1, scores).best_f1_threshold() == pytest.approx(0.25)


def test_best_f1_threshold_is_no_worse_than_any_cut():
    labels, probabilities = draw(200, 2)
    scores = probabilities[:, 1]
    found = RankedClass(labels == 1, scores).best_f1_threshold()
    cuts = [oracle.f1_score(labels, scores >= cut) for cut in np.unique(scores)]
    assert oracle.f1_score(labels, scores >= found) == max(cuts)


def test_best_f1_threshold_when_all_scores_are_equal():
    assert RankedClass(np.array([False, True]), np.full(2, 0.5)).best_f1_threshold() == 0.5


def test_shifted_threshold_cuts_where_the_posterior_of_bayes_does():
    """Two unit Gaussians at 0 and 1: the posterior at x has the odds exp(x - 1/2) pi / (1 - pi)."""

    def posterior(x, prior):
        odds = np.exp(x - 0.5) * prior / (1 - prior)
        return odds / (1 + odds)

    found = metrics.shift_threshold(0.4, 1 / 17, 1 / 101)
    at = np.log(0.4 / 0.6 * 100) + 0.5  # where the posterior under 1:100 reaches 0.4
    assert found == pytest.approx(posterior(at, 1 / 17))
    assert metrics.shift_threshold(0.4, 0.1, 0.1) == pytest.approx(0.4)


def test_metrics_import_no_torch_and_no_scikit_learn():
    heavy = "{'torch', 'sklearn', 'scipy'}"
    code = f"import sys, lenshpc.statistics.metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
