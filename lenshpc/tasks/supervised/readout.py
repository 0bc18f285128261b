"""What trained classifiers say of new images: probabilities, a decision, how unusual an image is.

Shapes: n rows, K classes, M models.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from lenshpc.config import unknown
from lenshpc.errors import ConfigError
from lenshpc.registry import Fitted, Request
from lenshpc.run.results import RunResults
from lenshpc.run.trained import EnsembleSpec
from lenshpc.statistics import metrics
from lenshpc.statistics.ensembles import (
    CALIBRATIONS,
    NUM_PARTS,
    Array,
    Mixture,
    dump_mixture,
    read_mixture,
    sample_rows,
)
from lenshpc.statistics.novelty import Novelty, read_references
from lenshpc.statistics.scores import choose_threshold, cover, oof_prior
from lenshpc.tasks.supervised.merge import UPRIGHT, merge
from lenshpc.tasks.supervised.settings import Supervised

Floats = npt.NDArray[np.floating]


class ProbabilityReadout:
    """The run's own combination, threshold and calibration, applied to new images."""

    arrays: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: EnsembleSpec, fitted: Fitted, request: Request) -> None:
        self._classes = spec.classes
        self._models = spec.headline_places
        values = fitted.values
        self._mixture = read_mixture(values["mixture"])
        self._calibration = values["calibration"] and read_mixture(values["calibration"])
        self._threshold, self._oof_prior = values["threshold"], values["oof_prior"]
        self._prior = _find_prior(spec, request, self._oof_prior)
        self._novelty = Novelty([one.index for one in spec.members], fitted.arrays)
        self._ranked = _find_class(spec.classes, request.rank_by)

    @classmethod
    def fit(cls, results: RunResults) -> Fitted:
        """Return combination, threshold and calibration, fitted on out-of-fold rows."""
        merged = merge(results.run, results.plan, results.splits, results.missing)
        out = (merged.rows["split"] == "oof").to_numpy()
        labels, probabilities = merged.rows["label"].to_numpy(), merged.probabilities
        values = probabilities[merged.headline]
        asked = out & cover(values)
        labels, values = labels[asked], values[asked]
        threshold = choose_threshold(labels, values)
        kind = Supervised.of(results.plan.recipe.method).calibration
        return Fitted(
            values={
                "mixture": dump_mixture(merged.mixture),
                "threshold": threshold,
                "oof_prior": None if threshold is None else oof_prior(labels, values),
                "calibration": _fit_calibration(kind, values, labels),
            },
            arrays=read_references(results),
        )

    def answer(self, outputs: Sequence[Mapping[str, Any]]) -> Array:
        """Return the ensemble's probabilities (n, K), float64."""
        return self._mix([_probabilities(one, len(self._classes)) for one in outputs])

    def _mix(self, members: Sequence[Array]) -> Array:
        xp = array_namespace(members[0])
        means = [sum(members[at] for at in places) / len(places) for places in self._models]
        return self._mixture.apply(xp.stack(means))

    def table(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return p_CLASS of each class, score, spread over members, calibrated score, decision."""
        members = [_probabilities(one, len(self._classes)) for one in outputs]
        found = self._mix(members)
        named = {f"p_{name}": found[:, k] for k, name in enumerate(self._classes)}
        return {
            **named,
            "score": self._score(found),
            "spread": np.std([self._score(one) for one in members], axis=0),
            **self._calibrate(found),
            "decision": np.array(self._classes, object)[metrics.decide(found, self._cut)],
            **self._novelty.measure(outputs),
        }

    def _score(self, probabilities: Floats) -> Floats:
        return probabilities[:, self._ranked]

    @property
    def _cut(self) -> float | None:
        """Return the threshold in use: the run's, moved to the prior where one is declared."""
        threshold: float | None = self._threshold
        if threshold is None or self._prior is None:
            return threshold
        return metrics.shift_threshold(threshold, self._oof_prior, self._prior)

    def _calibrate(self, probabilities: Floats) -> dict[str, Floats]:
        if not self._calibration:
            return {}
        mapped = self._calibration.apply(probabilities[None])
        if self._prior is not None:
            # Bayes: the odds of the classes move with their shares, the likelihoods stay.
            odds = [(1 - self._prior) / (1 - self._oof_prior), self._prior / self._oof_prior]
            mapped = mapped * odds
            mapped = mapped / mapped.sum(axis=1, keepdims=True)
        return {"calibrated": self._score(mapped)}

    def settings(self) -> dict[str, Any]:
        """Return threshold and prior in use, and the class that candidates are ranked by."""
        return {
            "threshold": self._cut,
            "oof_threshold": self._threshold,
            "prior": self._prior,
            "oof_prior": self._oof_prior,
            "ranked_by": self._classes[self._ranked],
        }


def _find_prior(spec: EnsembleSpec, request: Request, oof_prior: float | None) -> float | None:
    """Return the share of positives that is asked for, or that the recipe declares."""
    if oof_prior is not None:
        return request.prior or Supervised.of(spec.recipe.method).test_prior
    if request.prior is None:
        return None
    raise ConfigError(
        f"--prior {request.prior} is the share of the second of two classes, and {spec.name} has "
        f"no threshold to move (classes: {', '.join(spec.classes)}); remove it"
    )


def _find_class(classes: Sequence[str], name: str | None) -> int:
    """Return the class that candidates are of: the last one, unless another is named."""
    if name is None:
        return len(classes) - 1
    if name not in classes:
        raise ConfigError(f"--rank-by: {unknown('class', name, classes)}")
    return classes.index(name)


def _probabilities(output: Mapping[str, Any], num_classes: int) -> Array:
    """Return what a member's log-probabilities stand for (n, K), float64, with sum 1."""
    first = output[f"{UPRIGHT}_0"]
    xp = array_namespace(first)
    logp = xp.stack([output[f"{UPRIGHT}_{k}"] for k in range(num_classes)], axis=1)
    # As aggregate reads them from the files, so that both give the same numbers.
    likelihoods = xp.exp(xp.astype(logp, xp.float64))
    return likelihoods / xp.sum(likelihoods, axis=1, keepdims=True)


def _fit_calibration(kind: str, probabilities: Floats, labels: npt.NDArray[Any]) -> Any:
    """Return the map as plain values; None where a class has too few rows to fit one."""
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if counts.min() < NUM_PARTS:
        return None
    some = sample_rows(np.ones(len(labels), bool), labels)
    fitted: Mixture = CALIBRATIONS[kind](probabilities[some], labels[some])
    return dump_mixture(fitted)
