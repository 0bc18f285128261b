"""Judge all lines of a run's table on the same resamples, and compare them with each other."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.errors import DataError
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.run.recipe import is_variant
from lenshpc.run.results import RunResults
from lenshpc.run.stages import hash_arrays
from lenshpc.statistics import ensembles, radial
from lenshpc.statistics.delong import compare
from lenshpc.statistics.ensembles import FIT_ROWS, SELECTION_NOTE
from lenshpc.statistics.measures import AUC, RowValues
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import ClassificationScores, Evaluation, Kind
from lenshpc.statistics.scores import (
    draw_splits,
    find_groups,
    note_resamples,
    oof_prior,
    score_model,
)
from lenshpc.store import Store
from lenshpc.tasks.supervised.baselines import predict_baselines
from lenshpc.tasks.supervised.merge import Merged, Probabilities, merge, merge_headline
from lenshpc.tasks.supervised.settings import Supervised
from lenshpc.tasks.supervised.variants import Trained, score_variants

Progress = Callable[[str], None]

NUM_THREADS = 2  # of sorts and sums, which let each other run
MANY_ROWS = (
    500_000  # beyond, one line at a time: each takes some 300 bytes a row while it is judged
)


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """All that is evaluated of a run: its merged predictions, their scores, its variants.

    `baselines` has each baseline's probabilities of the merged rows, and `absent` says why there
    are none.
    """

    merged: Merged
    scores: ClassificationScores
    variants: tuple[Trained, ...]
    baselines: Mapping[str, Probabilities] = field(default_factory=dict)
    absent: str | None = None


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run of lens finding or any other classification."""
    run, plan, splits = results.run, results.plan, results.splits
    with results.stages.time("merge"):
        merged = merge(run, plan, splits, results.missing, results.stages)
    with results.stages.time("baselines"):
        try:
            baselines, absent = _keep_baselines(results, results.store), None
        except DataError as error:  # a run may outlive its store
            baselines, absent = {}, str(error)
    return RunEvaluation(
        merged=merged,
        scores=_keep_scores(results, merged, baselines),
        variants=score_variants(run, plan, splits, results.missing),
        baselines=baselines,
        absent=absent,
    )


def _keep_baselines(results: RunResults, store: Store) -> Mapping[str, Probabilities]:
    """Return each baseline's probabilities, fitted now or by an earlier report of the run."""
    plan = results.plan
    # Of a member and not of the Plan: to judge otherwise fits no other baseline.
    member = plan.member_fingerprint(plan.members[0])
    inputs = {"member": member, "store": plan.store_hash, "splits": plan.splits_hash}

    def fit() -> dict[str, npt.NDArray[Any]]:
        return dict(predict_baselines(plan, results.splits, store, results.say))

    return results.stages.keep("baselines", inputs, fit)


def _keep_scores(
    results: RunResults, merged: Merged, baselines: Mapping[str, Probabilities]
) -> ClassificationScores:
    """Return the scores of all lines, computed now or by an earlier report of the same values."""
    recipe = results.plan.recipe
    prior = Supervised.of(recipe.method).test_prior
    inputs = {
        "splits": results.plan.splits_hash,
        "lines": hash_arrays({name: values for name, _, values in _lines(merged, baselines)}),
        "turned": hash_arrays(merged.turned),
        "judging": [recipe.ensemble, prior],
    }

    def score() -> ClassificationScores:
        return score_models(merged, baselines, test_prior=prior, progress=results.say)

    return results.stages.keep_value("scores", inputs, ClassificationScores, score)


def measure_rows(results: RunResults) -> RowValues:
    """Return the probabilities of each row, by which runs are compared."""
    plan = results.plan
    rows, values = merge_headline(results.run, plan, results.splits)
    whole = tuple(name for name in plan.recipe.models if not is_variant(name))
    return RowValues(
        rows=rows,
        measures=(AUC,),
        headline=ENSEMBLE if ENSEMBLE in values else next(iter(values)),
        values={name: (found,) for name, found in values.items()},
        parts={name: whole if name == ENSEMBLE else (name,) for name in values},
    )


def score_models(
    merged: Merged,
    baselines: Mapping[str, Probabilities],
    *,
    test_prior: float | None = None,
    progress: Progress = lambda _: None,
    seed: int = 0,
) -> ClassificationScores:
    """Return the scores of merged predictions and of baselines on the same rows.

    `test_prior` is the share of positives declared for test rows, never one counted there. The
    test labels reach figures only: no threshold, weight or choice depends on them.
    """
    # Drawn once, before any line: differences between lines are paired only on the same resamples.
    resamples = draw_splits(merged.rows, seed=seed)
    evaluations = _judge_lines(merged, baselines, resamples, test_prior, progress)
    testing = (merged.rows["split"] == "test").to_numpy()
    test = merged.rows[testing]
    covering = {
        name: values[testing]
        for name, values in merged.probabilities.items()
        if np.isfinite(values[testing]).any()
    }
    return ClassificationScores(
        headline=merged.headline,
        evaluations=tuple(evaluations),
        comparisons=compare(
            test["label"].to_numpy(),
            covering,
            resamples["test"],
            find_groups(test),
        ),
        weights=merged.weights,
        test_prior=test_prior,
        oof_prior=_prior(merged),
        notes=tuple(_note(merged, baselines)),
    )


def _note(merged: Merged, baselines: Mapping[str, Probabilities]) -> Iterator[str]:
    """Yield what is to be known of how the figures were made, beyond what holds for any set."""
    if merged.combinations:
        yield SELECTION_NOTE
        if (merged.rows["split"] == "oof").sum() > FIT_ROWS:
            yield ensembles.SAMPLE_NOTE
    if baselines and len(merged.rows) > radial.MAX_IMAGES:
        yield radial.SAMPLE_NOTE
    yield from note_resamples(merged.rows)


def _judge_lines(
    merged: Merged,
    baselines: Mapping[str, Probabilities],
    resamples: Mapping[str, Resamples],
    test_prior: float | None,
    progress: Progress,
) -> list[Evaluation]:
    """Return the evaluation of each line; of sets that are not too large two at a time."""
    found = []
    with ThreadPoolExecutor(NUM_THREADS if len(merged.rows) <= MANY_ROWS else 1) as pool:
        begun = {
            name: pool.submit(
                score_model,
                name,
                merged.rows,
                probabilities,
                resamples,
                kind=kind,
                test_prior=test_prior,
                turned=merged.turned.get(name),
            )
            for name, kind, probabilities in _lines(merged, baselines)
        }
        try:
            for name, one in begun.items():
                progress(f"judging {name}")
                found.append(one.result())
        finally:
            # Else whoever interrupts waits for all lines.
            pool.shutdown(cancel_futures=True)
    return found


def _lines(
    merged: Merged, baselines: Mapping[str, Probabilities]
) -> Iterator[tuple[str, Kind, Probabilities]]:
    for name, values in merged.probabilities.items():
        yield name, "ensemble" if name == ENSEMBLE else "model", values
    for name, values in merged.combinations.items():
        yield name, "combination", values
    for name, values in baselines.items():
        yield name, "baseline", values


def _prior(merged: Merged) -> float | None:
    """Return the share of positives among the headline's out-of-fold rows; two classes only."""
    out = (merged.rows["split"] == "oof").to_numpy()
    values = merged.probabilities[merged.headline][out]
    if len(merged.classes) != 2 or not np.isfinite(values).all(axis=1).any():
        return None
    return oof_prior(merged.rows["label"].to_numpy()[out], values)
