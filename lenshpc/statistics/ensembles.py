"""Combine several models' probabilities: what is fitted sees out-of-fold rows only.

Shapes: M models, N rows, K classes; a stack is (M, N, K). A combination that is fitted is fitted
once for test rows, on all out-of-fold rows, and for the rows of each fold on those of the other
folds, so that no row's own label has a part in its probability.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.statistics import metrics
from lenshpc.statistics.results import Floats, Labels

NUM_ROUNDS, PATIENCE = 50, 5  # of greedy selection: picks at most, and without a better AUC
NUM_PARTS = 5  # of the rows of a single fold; with fewer rows of a class nothing is fitted
SMALLEST = 1e-12  # probability

Flags = npt.NDArray[np.bool_]
Apply = Callable[[Floats], Floats]

SELECTION_NOTE = (
    "The combinations stand beside each other so that they can be compared; the headline's was "
    "named in the recipe. To take the best line of several chosen on the same out-of-fold rows "
    "would make its out-of-fold figure too good, the more so the more lines there are; its "
    "test figure must then not be read as that of a line named beforehand."
)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One fitting of a combination: stack in, probabilities (N, K) out; `weights` a model."""

    apply: Apply
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A combination of models: its fittings, each with the rows (N,) that it is for."""

    fittings: tuple[tuple[Flags, Fitted], ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weights that test rows have."""
        return self.fittings[-1][1].weights

    def apply(self, stack: Floats) -> Floats:
        """Return probabilities (N, K); NaN where a model is."""
        result = np.full(stack.shape[1:], np.nan)
        # All models or none: a mean over those that are there would compare rows by different
        # ensembles.
        known = np.isfinite(stack).all(axis=(0, 2))
        for rows, fitted in self.fittings:
            asked = rows & known
            if asked.any():
                result[asked] = fitted.apply(stack[:, asked])
        return result


def fit_mean(stack: Floats, _: Labels) -> Fitted:
    """Return the mean of probabilities."""
    return _weigh(np.full(len(stack), 1 / len(stack)))


def fit_logit_mean(stack: Floats, _: Labels) -> Fitted:
    """Return the normalised geometric mean; of two classes the mean of logits."""

    def apply(asked: Floats) -> Floats:
        mean = np.log(np.maximum(asked, SMALLEST)).mean(axis=0)
        powers = np.exp(mean - mean.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return Fitted(apply=apply, weights=tuple(np.full(len(stack), 1 / len(stack))))


def fit_rank_mean(stack: Floats, _: Labels) -> Fitted:
    """Return the mean rank that each model's score would have among its out-of-fold scores.

    Ranks among the test rows themselves would make a row's value depend on its company.
    """
    shares = (np.arange(stack.shape[1]) + 0.5) / stack.shape[1]
    ladders = [[_ladder(column, shares) for column in model.T] for model in stack]

    def apply(asked: Floats) -> Floats:
        ranks = [
            [np.interp(column, *ladder) for column, ladder in zip(model.T, steps, strict=True)]
            for model, steps in zip(asked, ladders, strict=True)
        ]
        mean = np.mean(ranks, axis=0).T
        if mean.shape[1] == 2:
            return np.stack([1 - mean[:, 1], mean[:, 1]], axis=1)
        return np.asarray(mean / np.maximum(mean.sum(axis=1, keepdims=True), SMALLEST))

    return Fitted(apply=apply, weights=tuple(np.full(len(stack), 1 / len(stack))))


def _ladder(scores: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Return ascending scores from 0 to 1 and the share of rows below each, the mean if tied."""
    steps, where = np.unique(scores, return_inverse=True)
    rank = np.argsort(np.argsort(scores, kind="stable"))
    below = np.bincount(where, shares[rank]) / np.bincount(where)
    inside = (steps > 0) & (steps < 1)
    return np.concatenate([[0], steps[inside], [1]]), np.concatenate([[0], below[inside], [1]])


def fit_oof_weighted(stack: Floats, labels: Labels) -> Fitted:
    """Return the mean weighted by the odds AUC : 1 - AUC, the softmax of the AUC's logit."""
    aucs = np.array([metrics.roc_auc(labels, model) for model in stack])
    # An AUC of 1 would take all the weight; no set of rows tells it from 1 - 1/N.
    odds = 1 / np.maximum(1 - aucs, 1 / len(labels)) - 1
    return _weigh(odds / odds.sum())


def fit_greedy(stack: Floats, labels: Labels) -> Fitted:
    """Return the mean of a bag of models, picked one by one with replacement for the best AUC.

    Caruana et al. 2004. Of the bags on the way the first best is kept; a tie picks the earlier
    model of the recipe.
    """
    picks: list[int] = []
    reached: list[float] = []
    total = np.zeros_like(stack[0])
    for _ in range(NUM_ROUNDS):
        aucs = [metrics.roc_auc(labels, total + model) for model in stack]
        # argmax takes the first of equal ones, so a tie is decided by the recipe and not by
        # rounding of the sum.
        picks.append(int(np.argmax(aucs)))
        reached.append(aucs[picks[-1]])
        total = total + stack[picks[-1]]
        if len(picks) - int(np.argmax(reached)) > PATIENCE:
            break
    # Cut back to the first best: the rounds after it are the patience, not the choice.
    bag = picks[: int(np.argmax(reached)) + 1]
    return _weigh(np.bincount(bag, minlength=len(stack)) / len(bag))


def fit_stacking(stack: Floats, labels: Labels) -> Fitted:
    """Return a logistic regression (L2, C = 1) on the models' log-odds against the first class."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(_log_odds(stack), labels)
    shape = (-1, len(stack), stack.shape[2] - 1)  # outputs, models, log-odds

    def apply(asked: Floats) -> Floats:
        result = np.zeros(asked.shape[1:])
        result[:, model.classes_] = model.predict_proba(_log_odds(asked))
        return result

    strength = np.abs(model.coef_).reshape(shape).mean(axis=(0, 2))
    weights = model.coef_[0] if stack.shape[2] == 2 else strength
    return Fitted(apply=apply, weights=tuple(float(value) for value in weights))


def _log_odds(stack: Floats) -> Floats:
    """Return (N, M (K - 1)) log-odds of each class against the first."""
    logp = np.log(np.maximum(stack, SMALLEST))
    odds = logp[..., 1:] - logp[..., :1]
    return np.asarray(odds.transpose(1, 0, 2).reshape(stack.shape[1], -1))


def _weigh(weights: Floats) -> Fitted:
    return Fitted(
        apply=lambda asked: np.asarray(np.tensordot(weights, asked, axes=1)),
        weights=tuple(float(weight) for weight in weights),
    )


COMBINATIONS: Mapping[str, Callable[[Floats, Labels], Fitted]] = {
    "mean": fit_mean,
    "logit_mean": fit_logit_mean,
    "rank_mean": fit_rank_mean,
    "oof_weighted": fit_oof_weighted,
    "greedy": fit_greedy,
    "stacking": fit_stacking,
}


def combine(kind: str, rows: pd.DataFrame, models: Sequence[Floats]) -> Combination:
    """Return the combination of models' probabilities (N, K) of `rows`, fitted out-of-fold."""
    stack, labels = np.asarray(models), rows["label"].to_numpy()
    testing = (rows["split"] == "test").to_numpy()
    # Test rows reach no fit: `testing` is taken out here, and only asked below.
    usable = ~testing & np.isfinite(stack).all(axis=(0, 2))
    if np.bincount(labels[usable], minlength=stack.shape[2]).min() < NUM_PARTS:
        return Combination(fittings=((np.ones(len(rows), bool), fit_mean(stack, labels)),))
    fit = COMBINATIONS[kind]
    parts = _parts(rows, usable)
    # Fitted on the other parts alone: with its own label in the fit, a row's out-of-fold figure
    # would be too good.
    fittings = [
        (~testing & (parts == part), usable & (parts != part)) for part in np.unique(parts[usable])
    ]
    return Combination(
        fittings=tuple(
            (asked, fit(stack[:, seen], labels[seen]))
            for asked, seen in [*fittings, (testing, usable)]
        )
    )


def _parts(rows: pd.DataFrame, usable: Flags) -> Labels:
    """Return the part (N,) in which each row is asked: its fold, or a fifth of a single fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = rows["fold"].to_numpy()
    if len(np.unique(folds[usable])) > 1:
        return folds
    parts = np.full(len(rows), -1)
    some = np.flatnonzero(usable)
    # Whole groups: two views of one object on both sides of a cut would leak its label.
    groups = rows["group"] if "group" in rows else rows["row"]
    splitter = StratifiedGroupKFold(n_splits=NUM_PARTS, shuffle=True, random_state=0)
    split = splitter.split(some, rows["label"].to_numpy()[some], groups.to_numpy()[some])
    for part, (_, asked) in enumerate(split):
        parts[some[asked]] = part
    return parts
