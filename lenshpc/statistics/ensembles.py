"""Combine several models' probabilities: what is fitted sees out-of-fold rows only.

Shapes: M models, N rows, K classes; a stack is (M, N, K). A combination that is fitted is fitted
once for test rows, on all out-of-fold rows, and for the rows of each fold on those of the other
folds, so that no row's own label has a part in its probability.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from array_api_compat import array_namespace

from lenshpc.config import Frozen
from lenshpc.run.dealing import deal_groups
from lenshpc.statistics import metrics
from lenshpc.statistics.results import Floats, Labels

NUM_ROUNDS, PATIENCE = 50, 5  # of greedy selection: picks at most, and without a better AUC
NUM_PARTS = 5  # of the rows of a single fold; with fewer rows of a class nothing is fitted
FIT_ROWS = 100_000  # a fit of more rows sees as many of them, evenly of each class
MAX_STEPS = 10_000  # of the ranks that such a fit keeps
SMALLEST = 1e-12  # probability

Array: TypeAlias = Any  # numpy array or torch tensor
Flags = npt.NDArray[np.bool_]
Ladder = tuple[tuple[float, ...], tuple[float, ...]]

SAMPLE_NOTE = (
    f"Weights, ranks and regressions of combinations are fitted on {FIT_ROWS:,} of the "
    "out-of-fold rows, evenly from each class; all rows are then combined and scored."
)
SELECTION_NOTE = (
    "The combinations are shown for comparison; the one in the headline was named in the recipe. "
    "Choosing the best of several, all fitted on the same out-of-fold rows, would make its "
    "out-of-fold score too good, the more so the more there are; its test score must then not be "
    "read like that of a combination named beforehand."
)


class Mixture(Frozen):
    """One fitting of a combination: a stack of probabilities in, probabilities out.

    `weights` has one a model. A value and no closure, so that it can be exported.
    """

    weights: tuple[float, ...]

    def apply(self, stack: Array) -> Array:
        """Return probabilities (n, K) of a stack (M, n, K), numpy's or torch's alike."""
        return _weigh(stack, self.weights)


def _weigh(stack: Array, weights: Sequence[float]) -> Array:
    """Return the sum of models (M, n, K), each times its weight."""
    terms = [stack[at] * weight for at, weight in enumerate(weights)]
    return sum(terms[1:], start=terms[0])


class Geometric(Mixture):
    """The normalised geometric mean."""

    def apply(self, stack: Array) -> Array:
        """Return probabilities (n, K)."""
        xp = array_namespace(stack)
        mean = xp.mean(xp.log(xp.clip(stack, min=SMALLEST)), axis=0)
        powers = xp.exp(mean - xp.max(mean, axis=1, keepdims=True))
        return powers / xp.sum(powers, axis=1, keepdims=True)


class Ranked(Mixture):
    """The mean rank; `ladders` has, a model and a class, ascending scores and the share below."""

    ladders: tuple[tuple[Ladder, ...], ...]

    def apply(self, stack: Array) -> Array:
        """Return probabilities (n, K)."""
        xp = array_namespace(stack)
        models = [
            # By concat, which lays a column out in one piece: torch warns of searching any other.
            xp.stack(
                [interpolate(xp.concat([model[:, k]]), *one) for k, one in enumerate(steps)],
                axis=1,
            )
            for model, steps in zip(stack, self.ladders, strict=True)
        ]
        mean = xp.mean(xp.stack(models), axis=0)
        if mean.shape[1] == 2:
            return xp.stack([1 - mean[:, 1], mean[:, 1]], axis=1)
        return mean / xp.clip(xp.sum(mean, axis=1, keepdims=True), min=SMALLEST)


class Stacked(Mixture):
    """A logistic regression on log-odds; an output of `coefficients` a class of `labels`, or one.

    With two classes there is one output, of the second.
    """

    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    labels: tuple[int, ...]

    def apply(self, stack: Array) -> Array:
        """Return probabilities (n, K)."""
        xp = array_namespace(stack)
        odds = _log_odds(stack)
        columns = [
            _weigh(odds.T, line) + intercept
            for line, intercept in zip(self.coefficients, self.intercepts, strict=True)
        ]
        if len(columns) == 1:
            columns = [xp.zeros_like(columns[0]), *columns]
        raw = xp.stack(columns, axis=1)
        powers = xp.exp(raw - xp.max(raw, axis=1, keepdims=True))
        found = powers / xp.sum(powers, axis=1, keepdims=True)
        nothing = xp.zeros_like(found[:, 0])
        known = {label: found[:, at] for at, label in enumerate(self.labels)}
        return xp.stack([known.get(label, nothing) for label in range(stack.shape[2])], axis=1)


def interpolate(values: Array, steps: Sequence[float], heights: Sequence[float]) -> Array:
    """Return what a line through points has at each value (n,); steps ascend and enclose them."""
    xp = array_namespace(values)
    places, levels = (
        xp.asarray(one, dtype=values.dtype, device=values.device) for one in (steps, heights)
    )
    above = xp.clip(xp.searchsorted(places, values, side="right"), min=1, max=len(steps) - 1)
    low, high = (xp.take(places, at) for at in (above - 1, above))
    first, last = (xp.take(levels, at) for at in (above - 1, above))
    return first + (last - first) * (values - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A combination of models: its fittings, each with the rows (N,) that it is for."""

    fittings: tuple[tuple[Flags, Mixture], ...]

    @property
    def final(self) -> Mixture:
        """Return the fitting that rows get which no member has learnt from: on all out-of-fold."""
        return self.fittings[-1][1]

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weights that test rows have."""
        return self.final.weights

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


def fit_mean(stack: Floats, _: Labels) -> Mixture:
    """Return the mean of probabilities."""
    return Mixture(weights=_equal(stack))


def _equal(stack: Floats) -> tuple[float, ...]:
    return (1 / len(stack),) * len(stack)


def fit_logit_mean(stack: Floats, _: Labels) -> Mixture:
    """Return the normalised geometric mean; of two classes the mean of logits."""
    return Geometric(weights=_equal(stack))


def fit_rank_mean(stack: Floats, _: Labels) -> Mixture:
    """Return the mean rank that each model's score would have among its out-of-fold scores.

    Ranks among the test rows themselves would make a row's value depend on its company.
    """
    if stack.shape[1] >= FIT_ROWS:
        places = np.linspace(0, stack.shape[1] - 1, MAX_STEPS).round().astype(np.intp)
        stack = np.sort(stack, axis=1)[:, places]
    shares = (np.arange(stack.shape[1]) + 0.5) / stack.shape[1]
    ladders = tuple(tuple(_ladder(column, shares) for column in model.T) for model in stack)
    return Ranked(weights=_equal(stack), ladders=ladders)


def _ladder(scores: Floats, shares: Floats) -> Ladder:
    """Return ascending scores from 0 to 1 and the share of rows below each, the mean if tied."""
    steps, where = np.unique(scores, return_inverse=True)
    rank = np.argsort(np.argsort(scores, kind="stable"))
    below = np.bincount(where, shares[rank]) / np.bincount(where)
    inside = (steps > 0) & (steps < 1)
    return (0.0, *steps[inside].tolist(), 1.0), (0.0, *below[inside].tolist(), 1.0)


def fit_oof_weighted(stack: Floats, labels: Labels) -> Mixture:
    """Return the mean weighted by the odds AUC : 1 - AUC, the softmax of the AUC's logit."""
    aucs = np.array([metrics.roc_auc(labels, model) for model in stack])
    # An AUC of 1 would take all the weight; no set of rows tells it from 1 - 1/N.
    odds = 1 / np.maximum(1 - aucs, 1 / len(labels)) - 1
    return Mixture(weights=tuple((odds / odds.sum()).tolist()))


def fit_greedy(stack: Floats, labels: Labels) -> Mixture:
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
    return Mixture(weights=tuple((np.bincount(bag, minlength=len(stack)) / len(bag)).tolist()))


def fit_stacking(stack: Floats, labels: Labels) -> Mixture:
    """Return a logistic regression (L2, C = 1) on the models' log-odds against the first class."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(_log_odds(stack), labels)
    shape = (-1, len(stack), stack.shape[2] - 1)  # outputs, models, log-odds
    strength = np.abs(model.coef_).reshape(shape).mean(axis=(0, 2))
    weights = model.coef_[0] if stack.shape[2] == 2 else strength
    return Stacked(
        weights=tuple(weights.tolist()),
        coefficients=tuple(map(tuple, model.coef_.tolist())),
        intercepts=tuple(model.intercept_.tolist()),
        labels=tuple(model.classes_.tolist()),
    )


def _log_odds(stack: Array) -> Array:
    """Return (N, M (K - 1)) log-odds of each class against the first."""
    xp = array_namespace(stack)
    logp = xp.log(xp.clip(stack, min=SMALLEST))
    odds = logp[..., 1:] - logp[..., :1]
    return xp.reshape(xp.permute_dims(odds, (1, 0, 2)), (stack.shape[1], -1))


COMBINATIONS: Mapping[str, Callable[[Floats, Labels], Mixture]] = {
    "mean": fit_mean,
    "logit_mean": fit_logit_mean,
    "rank_mean": fit_rank_mean,
    "oof_weighted": fit_oof_weighted,
    "greedy": fit_greedy,
    "stacking": fit_stacking,
}
MIXTURES = {one.__name__: one for one in (Mixture, Geometric, Ranked, Stacked)}


def dump_mixture(mixture: Mixture) -> dict[str, Any]:
    """Return a fitting as plain values."""
    return {"kind": type(mixture).__name__, **mixture.model_dump(mode="json")}


def read_mixture(value: Mapping[str, Any]) -> Mixture:
    """Return the fitting that `dump_mixture` turned into plain values."""
    return MIXTURES[value["kind"]].model_validate({k: v for k, v in value.items() if k != "kind"})


def fit_platt(probabilities: Floats, labels: Labels) -> Mixture:
    """Return Platt's map of probabilities (N, K), a logistic regression on their log-odds.

    Platt 1999; of more classes the multinomial one.
    """
    return fit_stacking(probabilities[None], labels)


def fit_isotonic(probabilities: Floats, labels: Labels) -> Mixture:
    """Return the isotonic map of probabilities (N, K), class by class (Zadrozny & Elkan 2002)."""
    ladders = [_isotonic_steps(one, labels == k) for k, one in enumerate(probabilities.T)]
    return Ranked(weights=(1.0,), ladders=(tuple(ladders),))


def _isotonic_steps(scores: Floats, positive: Flags) -> Ladder:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1).fit(scores, positive)
    steps, heights = model.X_thresholds_.tolist(), model.y_thresholds_.tolist()
    if steps[0] > 0:
        steps, heights = [0.0, *steps], [heights[0], *heights]
    if steps[-1] < 1:
        steps, heights = [*steps, 1.0], [*heights, heights[-1]]
    return tuple(steps), tuple(heights)


CALIBRATIONS: Mapping[str, Callable[[Floats, Labels], Mixture]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def combine(kind: str, rows: pd.DataFrame, models: Sequence[Floats] | Floats) -> Combination:
    """Return the combination of models' probabilities (N, K) of `rows`, fitted out-of-fold."""
    return combine_all([kind], rows, models)[kind]


def combine_all(
    kinds: Iterable[str], rows: pd.DataFrame, models: Sequence[Floats] | Floats
) -> dict[str, Combination]:
    """Return combinations by their kinds, all fitted on the same rows."""
    stack, labels = np.asarray(models), rows["label"].to_numpy()
    testing = (rows["split"] == "test").to_numpy()
    # Test rows reach no fit: `testing` is taken out here, and only asked below.
    usable = ~testing & np.isfinite(stack).all(axis=(0, 2))
    if np.bincount(labels[usable], minlength=stack.shape[2]).min() < NUM_PARTS:
        mean = Combination(fittings=((np.ones(len(rows), bool), fit_mean(stack, labels)),))
        return dict.fromkeys(kinds, mean)
    parts = _parts(rows, usable)
    # Fitted on the other parts alone: with its own label in the fit, a row's out-of-fold figure
    # would be too good.
    fittings = [
        (~testing & (parts == part), usable & (parts != part)) for part in np.unique(parts[usable])
    ]
    chosen = [(asked, sample_rows(seen, labels)) for asked, seen in [*fittings, (testing, usable)]]
    fitted = [(asked, stack[:, some], labels[some]) for asked, some in chosen]
    return {
        kind: Combination(
            fittings=tuple((asked, COMBINATIONS[kind](some, true)) for asked, some, true in fitted)
        )
        for kind in kinds
    }


def sample_rows(usable: Flags, labels: Labels) -> Labels:
    """Return the places of at most `FIT_ROWS` usable rows, ascending, evenly of each class."""
    rows = np.flatnonzero(usable)
    if len(rows) <= FIT_ROWS:
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(FIT_ROWS) * len(rows) // FIT_ROWS])


def _parts(rows: pd.DataFrame, usable: Flags) -> Labels:
    """Return the part (N,) in which each row is asked: its fold, or a fifth of a single fold."""
    folds = rows["fold"].to_numpy()
    if len(np.unique(folds[usable])) > 1:
        return folds
    parts = np.full(len(rows), -1)
    some = np.flatnonzero(usable)
    labels = rows["label"].to_numpy()[some]
    # Whole groups: two views of one object on both sides of a cut would leak its label.
    groups = (rows["group"] if "group" in rows else rows["row"]).iloc[some]
    if len(some) > FIT_ROWS:
        parts[some] = _deal(labels, groups)
        return parts
    from sklearn.model_selection import StratifiedGroupKFold  # takes seconds to import

    splitter = StratifiedGroupKFold(n_splits=NUM_PARTS, shuffle=True, random_state=0)
    split = splitter.split(some, labels, groups.to_numpy())
    for part, (_, asked) in enumerate(split):
        parts[some[asked]] = part
    return parts


def _deal(labels: Labels, groups: pd.Series) -> Labels:
    """Return the part of each of many rows, whose groups no loop goes through."""
    numbers = pd.factorize(groups)[0]
    num_classes = int(labels.max()) + 1
    cells = np.bincount(numbers * num_classes + labels, minlength=(numbers.max() + 1) * num_classes)
    return deal_groups(cells.reshape(-1, num_classes), NUM_PARTS, seed=0)[numbers]
