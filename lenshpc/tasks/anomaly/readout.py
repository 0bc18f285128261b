"""What models of the normal class say of new images: how strange each is, and whether too strange.

Shapes: n rows.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from lenshpc.registry import Fitted, Request
from lenshpc.run.predictions import read_predictions
from lenshpc.run.results import RunResults
from lenshpc.run.trained import EnsembleSpec
from lenshpc.tasks.anomaly.judge import find_threshold
from lenshpc.tasks.anomaly.merge import SCORES, find_scale, merge_scores
from lenshpc.tasks.anomaly.settings import Anomaly

ANOMALOUS = "anomalous"
HEAD = SCORES[0]


class ScoreReadout:
    """The run's own scale of each member, and the threshold of its headline, for new images."""

    arrays: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: EnsembleSpec, fitted: Fitted, request: Request) -> None:
        request.refuse(spec.name)
        method = Anomaly.of(spec.recipe.method)
        self._spec, self._quantile = spec, method.quantile
        self._normal = spec.classes[method.normal_label(spec.classes)]
        self._scales = fitted.values["scales"]
        self._threshold = fitted.values["threshold"]

    @classmethod
    def fit(cls, results: RunResults) -> Fitted:
        """Return each member's scale and the threshold, from out-of-fold normal rows alone."""
        run, plan, splits = results.run, results.plan, results.splits
        merged = merge_scores(run, plan, splits, results.missing)
        values = merged.values[merged.headline]
        quantile = Anomaly.of(plan.recipe.method).quantile
        frames = (read_predictions(run, plan, splits, one, [HEAD]) for one in plan.members)
        return Fitted(
            values={
                "scales": [find_scale(frame, HEAD) for frame in frames],
                "threshold": find_threshold(merged, values, quantile),
            }
        )

    def answer(self, outputs: Sequence[Mapping[str, Any]]) -> Any:
        """Return the headline's scores (n,), float64.

        0 is the median of normal images, 1 lies an interquartile range above it.
        """
        return self._spec.headline_mean(self._scale(outputs))

    def _scale(self, outputs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return each member's score on its scale."""
        return [
            (_wide(one[HEAD]) - middle) / span
            for one, (middle, span) in zip(outputs, self._scales, strict=True)
        ]

    def table(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return score, spread over members, decision, and the mean of each score as it is."""
        score, scaled = self.answer(outputs), self._scale(outputs)
        decision = np.where(score > self._threshold, ANOMALOUS, self._normal)
        return {
            "score": score,
            "spread": np.std([scaled[at] for at in chain(*self._spec.headline_places)], axis=0),
            "decision": decision.astype(object),
            **{
                name: self._spec.headline_mean([_wide(one[name]) for one in outputs])
                for name in SCORES
            },
        }

    def settings(self) -> dict[str, Any]:
        """Return the threshold, the share of normal images below it, and the normal class."""
        return {
            "threshold": self._threshold,
            "quantile": self._quantile,
            "normal": self._normal,
        }


def _wide(values: Any) -> Any:
    xp = array_namespace(values)
    return xp.astype(values, xp.float64)
