import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as oracle

from lenshpc import metrics


def draw(num_rows, num_classes, seed=0, decimals=2):
    """Labels of uneven classes and probabilities with many ties that favour the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(
        num_classes, size=num_rows, p=np.arange(1, num_classes + 1) / sum(range(1, num_classes + 1))
    )
    raw = rng.random((num_rows, num_classes)).round(decimals) + 0.01
    raw[np.arange(num_rows), labels] += 0.3
    return labels, raw / raw.sum(axis=1, keepdims=True)


def test_two_classes_agree_with_scikit_learn():
    labels, probabilities = draw(300, 2)
    predicted = probabilities.argmax(axis=1)
    assert metrics.classification_metrics(labels, probabilities) == pytest.approx(
        {
            "auc": oracle.roc_auc_score(labels, probabilities[:, 1]),
            "pr_auc": oracle.average_precision_score(labels, probabilities[:, 1]),
            "accuracy": oracle.accuracy_score(labels, predicted),
            "f1": oracle.f1_score(labels, predicted),
            "log_loss": oracle.log_loss(labels, probabilities),
        },
        rel=1e-12,
    )


def test_three_classes_agree_with_scikit_learn():
    labels, probabilities = draw(300, 3)
    predicted = probabilities.argmax(axis=1)
    assert metrics.classification_metrics(labels, probabilities) == pytest.approx(
        {
            "auc": oracle.roc_auc_score(labels, probabilities, multi_class="ovr"),
            "pr_auc": oracle.average_precision_score(labels, probabilities),
            "accuracy": oracle.accuracy_score(labels, predicted),
            "f1": oracle.f1_score(labels, predicted, average="macro"),
            "log_loss": oracle.log_loss(labels, probabilities),
        },
        rel=1e-12,
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


def test_precision_recall_f1_of_three_classes_are_means():
    labels, probabilities = draw(200, 3)
    predicted = probabilities.argmax(axis=1)
    expected = oracle.precision_recall_fscore_support(labels, predicted, average="macro")[:3]
    assert metrics.precision_recall_f1(labels, predicted, 3) == pytest.approx(expected)


def test_roc_auc_of_plain_scores():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert metrics.roc_auc(labels, scores) == 0.75


def test_metrics_without_a_positive_row_are_nan():
    labels, probabilities = np.zeros(3, dtype=int), np.full((3, 2), 0.5)
    assert np.isnan(metrics.roc_auc(labels, probabilities))
    assert np.isnan(metrics.pr_auc(labels, probabilities))
    assert np.isnan(metrics.bootstrap_auc_interval(labels, probabilities)).all()


def test_best_f1_threshold_lies_between_scores():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    # From 0.3 on: precision 3/4, recall 1, F1 6/7; no cut does better.
    assert metrics.best_f1_threshold(labels, scores) == pytest.approx(0.25)


def test_best_f1_threshold_is_no_worse_than_any_cut():
    labels, probabilities = draw(200, 2)
    scores = probabilities[:, 1]
    found = metrics.best_f1_threshold(labels, scores)
    cuts = [oracle.f1_score(labels, scores >= cut) for cut in np.unique(scores)]
    assert oracle.f1_score(labels, scores >= found) == max(cuts)


def test_best_f1_threshold_when_all_scores_are_equal():
    assert metrics.best_f1_threshold(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def test_weighted_auc_agrees_with_scikit_learn_under_ties():
    labels, probabilities = draw(150, 2, decimals=1)
    scores = probabilities[:, 1].round(1)
    weights = np.random.default_rng(1).integers(0, 4, size=(20, 150)).astype(float)
    expected = [oracle.roc_auc_score(labels, scores, sample_weight=line) for line in weights]
    found = metrics.weighted_auc(labels == 1, scores, weights)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_bootstrap_resamples_keep_each_class(num_classes):
    labels, _ = draw(60, num_classes)
    weights = np.concatenate(list(metrics._stratified_weights(labels, 50, seed=0)))
    assert weights.shape == (50, 60)
    for label in range(num_classes):
        np.testing.assert_array_equal(weights[:, labels == label].sum(axis=1), sum(labels == label))


def test_bootstrap_interval_does_not_depend_on_the_chunk(monkeypatch):
    labels, probabilities = draw(100, 2)
    monkeypatch.setattr(metrics, "CHUNK_VALUES", 10**9)
    whole = metrics.bootstrap_auc(labels, probabilities, num_resamples=7)
    assert len(whole) == 7
    monkeypatch.setattr(metrics, "CHUNK_VALUES", 1)
    assert len(metrics.bootstrap_auc(labels, probabilities, num_resamples=7)) == 7


def test_bootstrap_interval_has_the_width_of_delong():
    """The standard error of the AUC in closed form: DeLong's placement values."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [400, 300])
    scores = rng.normal(size=700) + labels
    wins = scores[labels == 1][:, None] > scores[labels == 0][None, :]
    variance = wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 400
    low, high = metrics.bootstrap_auc_interval(labels, scores, seed=0)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.08)
    assert low < metrics.roc_auc(labels, scores) < high


def test_bootstrap_interval_is_decided_by_the_seed():
    labels, probabilities = draw(100, 3)
    first = metrics.bootstrap_auc_interval(labels, probabilities, seed=4)
    assert metrics.bootstrap_auc_interval(labels, probabilities, seed=4) == first
    assert metrics.bootstrap_auc_interval(labels, probabilities, seed=5) != first


def test_metrics_import_no_torch_and_no_scikit_learn():
    code = "import sys, lenshpc.metrics; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
