"""Judge a physics-guided run: its classes as any classification, and its lenses."""

from collections.abc import Mapping
from dataclasses import dataclass

from lenshpc.errors import DataError
from lenshpc.run.results import RunResults
from lenshpc.tasks.physics_guided.lens_parameters import (
    COMPARED,
    EstimateErrors,
    Floats,
    LensEstimates,
    compare_with_truth,
    merge_lenses,
)
from lenshpc.tasks.supervised.judge import RunEvaluation
from lenshpc.tasks.supervised.judge import evaluate as evaluate_classes


@dataclass(frozen=True, kw_only=True)
class Lenses:
    """Estimates of all rows, the truth of those that have one, and how they agree."""

    estimates: LensEstimates
    truth: Mapping[str, Floats]
    agreements: tuple[EstimateErrors, ...]


@dataclass(frozen=True, kw_only=True)
class GuidedEvaluation:
    """The evaluation of the classes, and the lenses where members say anything of them."""

    classes: RunEvaluation
    lenses: Lenses | None


def evaluate(results: RunResults) -> GuidedEvaluation:
    """Return the evaluation of a run of physics-guided classification."""
    return GuidedEvaluation(classes=evaluate_classes(results), lenses=find_lenses(results))


def find_lenses(results: RunResults) -> Lenses | None:
    """Return what a run's members say of lenses; None where no member does."""
    estimates = merge_lenses(results.run, results.plan, results.splits, results.missing)
    if not estimates.models:
        return None
    truth = _truth(results, estimates)
    agreements = tuple(compare_with_truth(estimates, truth, results.plan.classes))
    return Lenses(estimates=estimates, truth=truth, agreements=agreements)


def _truth(results: RunResults, estimates: LensEstimates) -> dict[str, Floats]:
    """Return the store's numbers of the evaluated rows; none where the store is gone."""
    try:
        store, asked = results.store, estimates.rows["row"].to_numpy()
        return {name: store.column(name, asked) for name in COMPARED if name in store.columns}
    except DataError:
        return {}
