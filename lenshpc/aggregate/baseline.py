"""The trivial baseline: what brightness alone tells, which a network has to beat."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.aggregate.merge import Probabilities, evaluated_rows
from lenshpc.errors import DataError
from lenshpc.plan import Plan
from lenshpc.store import open_store

BASELINE = "baseline (mean and deviation)"


def read_features(plan: Plan) -> Probabilities:
    """Return mean and deviation of each image and channel, (N, 2C), from the Plan's store."""
    store = open_store(plan.store)
    if store.content_hash != plan.store_hash:
        raise DataError(f"{plan.store} is no longer the store that the run was planned on")
    return brightness(store.moments)


def brightness(moments: npt.NDArray[np.float64]) -> Probabilities:
    """Return means and deviations (N, 2C) of means and mean squares (N, C, 2)."""
    mean, square = moments[..., 0], moments[..., 1]
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, deviation], axis=1)


def predict_baseline(
    features: Probabilities, splits: pd.DataFrame, num_classes: int
) -> Probabilities:
    """Return probabilities (N, K) of the evaluated rows: a logistic regression a fold.

    Each regression sees its fold's training rows only; on test rows their mean stands.
    """
    rows = evaluated_rows(splits)
    labels, folds = splits["label"].to_numpy(), splits["fold"].to_numpy()
    own = np.arange(folds.max() + 1)
    testing = (rows["split"] == "test").to_numpy()
    asked = features[rows["row"].to_numpy()]
    result = np.zeros((len(rows), num_classes))
    for fold in own:
        training = (splits["split"] != "test").to_numpy() & (folds != fold)
        predicted = _fit_predict(features[training], labels[training], asked, num_classes)
        validating = (rows["fold"] == fold).to_numpy()
        result[validating] = predicted[validating]
        result[testing] += predicted[testing] / len(own)
    return result


def _fit_predict(
    features: Probabilities, labels: npt.NDArray[np.integer], asked: Probabilities, num_classes: int
) -> Probabilities:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(features, labels)
    result = np.zeros((len(asked), num_classes))
    result[:, model.classes_] = model.predict_proba(asked)
    return result
