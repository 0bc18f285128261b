"""The trivial baselines: what a few numbers of an image tell, which a network has to beat."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError
from lenshpc.report.remarks import ALIKE, explain_boosting
from lenshpc.run.plan import Plan
from lenshpc.run.predictions import evaluated_rows
from lenshpc.statistics.radial import RING_RADIUS, Progress, choose_rows, read_image_numbers
from lenshpc.store import Store
from lenshpc.tasks.supervised.merge import Probabilities

BASELINE = "baseline (mean and std)"
MEDIAN = "baseline (minus median pixel)"
RING = "baseline (ring radius)"
BOOSTING = "baseline (boosting on seven radial numbers)"


class SklearnClassifier(Protocol):
    """What scikit-learn's classifiers have in common."""

    classes_: npt.NDArray[np.integer]

    def fit(self, features: Probabilities, labels: npt.NDArray[np.integer]) -> object:
        """Fit to features (N, F)."""

    def predict_proba(self, features: Probabilities) -> Probabilities:
        """Return probabilities (N, K)."""


def predict_baselines(
    plan: Plan, splits: pd.DataFrame, store: Store, progress: Progress = lambda _: None
) -> dict[str, Probabilities]:
    """Return each baseline's probabilities (N, K) of the evaluated rows.

    All are fitted on the run's own folds; the images are read once, in blocks. Of a large store
    only some are, and the other rows are NaN.
    """
    places = choose_rows(store)
    numbers = read_image_numbers(store, places, progress)
    features: dict[str, tuple[Probabilities, Callable[[], SklearnClassifier]]] = {
        BASELINE: (brightness(store.column("moments", places)), _logistic),
        MEDIAN: (-numbers.median[:, None], _logistic),
        RING: (numbers.radial[:, [RING_RADIUS]], _logistic),
        BOOSTING: (numbers.radial, _boosting),
    }
    some = splits.iloc[places].reset_index(drop=True)
    check_classes(some)
    there = evaluated_rows(splits)["row"].isin(some["row"]).to_numpy()

    def predict(values: Probabilities, build: Callable[[], SklearnClassifier]) -> Probabilities:
        result = np.full((len(there), len(plan.classes)), np.nan)
        result[there] = predict_baseline(values, some, len(plan.classes), build)
        return result

    return {name: predict(*one) for name, one in features.items()}


def explain_constant(splits: pd.DataFrame) -> dict[str, str]:
    """Return why a baseline may have one score for all rows: of boosting, on the smallest fold."""
    dev = (splits["split"] == "dev").to_numpy()
    folds = splits["fold"].to_numpy()
    least = min(int((dev & (folds != fold)).sum()) for fold in range(int(folds.max()) + 1))
    alike = dict.fromkeys((BASELINE, MEDIAN, RING), ALIKE)
    return alike | {BOOSTING: explain_boosting(least)}


def check_classes(splits: pd.DataFrame) -> None:
    """Refuse rows of which a fold would learn from one class alone."""
    for fold in range(int(splits["fold"].max()) + 1):
        learnt = splits.loc[(splits["split"] == "dev") & (splits["fold"] != fold), "label"]
        if learnt.nunique() < 2:
            raise DataError(
                f"of the {len(splits):,} images that baselines use, fold {fold} is left with only "
                "one class"
            )


def brightness(moments: npt.NDArray[np.float64]) -> Probabilities:
    """Return means and deviations (N, 2C) of means and mean squares (N, C, 2)."""
    mean, square = moments[..., 0], moments[..., 1]
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, std], axis=1)


def _logistic() -> SklearnClassifier:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: SklearnClassifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model


def _boosting() -> SklearnClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model: SklearnClassifier = HistGradientBoostingClassifier(random_state=0)
    return model


def predict_baseline(
    features: Probabilities,
    splits: pd.DataFrame,
    num_classes: int,
    build: Callable[[], SklearnClassifier] = _logistic,
) -> Probabilities:
    """Return probabilities (N, K) of the evaluated rows: a classifier a fold.

    Each sees its fold's training rows only; on test rows their mean stands. `features` has a line
    for each of `splits`.
    """
    rows = evaluated_rows(splits.assign(line=np.arange(len(splits))))
    labels, folds = splits["label"].to_numpy(), splits["fold"].to_numpy()
    own = np.arange(folds.max() + 1)
    testing = (rows["split"] == "test").to_numpy()
    asked = features[rows["line"].to_numpy()]
    result = np.zeros((len(rows), num_classes))
    for fold in own:
        # A baseline sees what the networks of the fold see, no more: else beating it would prove
        # nothing.
        training = (splits["split"] == "dev").to_numpy() & (folds != fold)
        validating = (rows["fold"] == fold).to_numpy()
        mine = validating | testing
        predicted = np.zeros_like(result)
        predicted[mine] = _fit_predict(
            build(), features[training], labels[training], asked[mine], num_classes
        )
        result[validating] = predicted[validating]
        result[testing] += predicted[testing] / len(own)
    return result


def _fit_predict(
    model: SklearnClassifier,
    features: Probabilities,
    labels: npt.NDArray[np.integer],
    asked: Probabilities,
    num_classes: int,
) -> Probabilities:
    model.fit(features, labels)
    result = np.zeros((len(asked), num_classes))
    # A fold may lack a class: its column stays 0 instead of the others moving up.
    result[:, model.classes_] = model.predict_proba(asked)
    return result
