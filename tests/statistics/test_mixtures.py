"""Combinations and calibration maps as values: equal to their oracles, in numpy and in torch."""

import json

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lenshpc.statistics.ensembles import (
    CALIBRATIONS,
    COMBINATIONS,
    dump_mixture,
    interpolate,
    read_mixture,
)


def draw(num_models, num_classes, num_rows=200, seed=0):
    """Return labels and the probabilities (M, N, K) of models that know them a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % num_classes
    raw = rng.normal(size=(num_models, num_rows, num_classes)) + np.eye(num_classes)[labels]
    powers = np.exp(raw)
    return labels, powers / powers.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_mixture_is_the_same_in_torch_and_after_json(kind, num_classes):
    labels, stack = draw(3, num_classes)
    fitted = COMBINATIONS[kind](stack, labels)
    expected = fitted.apply(stack)
    read = read_mixture(json.loads(json.dumps(dump_mixture(fitted))))
    assert read == fitted
    np.testing.assert_array_equal(read.apply(stack), expected)
    in_torch = read.apply(torch.from_numpy(stack)).numpy()
    np.testing.assert_allclose(in_torch, expected, atol=1e-12)


def test_interpolation_is_numpys():
    rng = np.random.default_rng(0)
    steps = np.concatenate([[0], np.sort(rng.random(20)), [1]])
    heights = np.sort(rng.random(22))
    values = np.concatenate([rng.random(100), steps])
    expected = np.interp(values, steps, heights)
    np.testing.assert_allclose(interpolate(values, steps, heights), expected, atol=1e-12)
    found = interpolate(torch.from_numpy(values), steps.tolist(), heights.tolist())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_platt_is_a_logistic_regression_on_log_odds():
    labels, (probabilities,) = draw(1, 2)
    odds = np.log(probabilities[:, 1] / probabilities[:, 0])[:, None]
    expected = LogisticRegression().fit(odds, labels).predict_proba(odds)
    found = CALIBRATIONS["platt"](probabilities, labels).apply(probabilities[None])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_isotonic_is_scikit_learns():
    labels, (probabilities,) = draw(1, 2)
    model = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, 1], labels)
    fresh = draw(1, 2, seed=1)[1][0]
    found = CALIBRATIONS["isotonic"](probabilities, labels).apply(fresh[None])
    np.testing.assert_allclose(found[:, 1], model.predict(fresh[:, 1]), atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_calibration_of_three_classes_adds_up_and_is_nearer_to_the_shares(kind):
    labels, (probabilities,) = draw(1, 3, num_rows=3000)
    sharp = probabilities**3
    sharp /= sharp.sum(axis=1, keepdims=True)
    found = CALIBRATIONS[kind](sharp, labels).apply(sharp[None])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    rows = np.arange(len(labels))
    losses = [-np.log(np.maximum(one[rows, labels], 1e-12)).mean() for one in (found, sharp)]
    assert losses[0] < losses[1]
