"""Variants of one network compared training by training: equal folds and seeds make a pair."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import evaluated_rows
from lenshpc.run.recipe import network_of
from lenshpc.statistics import metrics
from lenshpc.statistics.results import LEVEL
from lenshpc.tasks.supervised.merge import read_probabilities

Metric = Literal["auc", "accuracy"]
METRICS: tuple[Metric, ...] = ("auc", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One member's figures on the test rows; the most probable class is taken."""

    member: Member
    auc: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Two variants' test figure over pairs of equal fold and seed, the first minus the second.

    `low`, `high` and `p_value` are those of a paired t test, two-sided; NaN for fewer than two
    pairs, or pairs that differ all alike.
    """

    first: str
    second: str
    metric: Metric
    num_pairs: int
    difference: float
    low: float
    high: float
    p_value: float


def score_variants(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, missing: Collection[Member] = ()
) -> tuple[Trained, ...]:
    """Return the figures of all finished members whose network the plan has in variants."""
    networks = [network_of(model) for model in plan.ensembles()]
    several = {network for network in networks if networks.count(network) > 1}
    rows = evaluated_rows(splits)
    testing = (rows["split"] == "test").to_numpy()
    labels = rows["label"].to_numpy()[testing]
    chosen = (one for one in plan.members if one not in missing and one.network in several)
    read = ((one, read_probabilities(run, plan, splits, one)[testing]) for one in chosen)
    return tuple(
        Trained(
            member=member,
            auc=metrics.roc_auc(labels, values),
            accuracy=float((values.argmax(axis=1) == labels).mean()),
        )
        for member, values in read
    )


def pairs_of(trained: Sequence[Trained], first: str, second: str) -> list[tuple[Trained, Trained]]:
    """Return the trainings of two models that share fold and seed."""
    others = {(o.member.fold, o.member.seed): o for o in trained if o.member.model == second}
    mine = (one for one in trained if one.member.model == first)
    keyed = (((one.member.fold, one.member.seed), one) for one in mine)
    return [(one, others[key]) for key, one in keyed if key in others]


def compare_variants(trained: Sequence[Trained]) -> Iterator[PairedDifference]:
    """Yield the paired difference of every two variants of a network, for each metric."""
    models = list(dict.fromkeys(one.member.model for one in trained))
    for first, second in combinations(models, 2):
        pairs = pairs_of(trained, first, second)
        if network_of(first) == network_of(second) and pairs:
            for metric in METRICS:
                yield _difference(first, second, metric, pairs)


def _difference(
    first: str, second: str, metric: Metric, pairs: Sequence[tuple[Trained, Trained]]
) -> PairedDifference:
    from scipy.stats import ttest_1samp

    change = np.array([getattr(one, metric) - getattr(other, metric) for one, other in pairs])
    low = high = p_value = np.nan
    if len(change) > 1 and np.ptp(change) > 0:
        test = ttest_1samp(change, 0.0)
        p_value = float(test.pvalue)
        low, high = (float(limit) for limit in test.confidence_interval(LEVEL))
    return PairedDifference(
        first=first,
        second=second,
        metric=metric,
        num_pairs=len(pairs),
        difference=float(change.mean()),
        low=low,
        high=high,
        p_value=p_value,
    )
