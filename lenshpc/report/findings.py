"""All that a report says about a run, gathered once before anything is drawn or written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lenshpc.aggregate.baseline import BASELINE, predict_baseline, read_features
from lenshpc.aggregate.classification import Evaluation, evaluate, find_mistakes
from lenshpc.aggregate.gate import check_complete, word_missing
from lenshpc.aggregate.merge import Merged, merge
from lenshpc.completion import missing_members
from lenshpc.errors import DataError, IncompleteError
from lenshpc.files import read_json
from lenshpc.paths import MemberPaths, RunPaths
from lenshpc.plan import Member, Plan, load_splits


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one finished member was trained: its `done.json` and a line of figures an epoch."""

    member: Member
    done: Mapping[str, Any]
    history: pd.DataFrame

    def best(self, column: str) -> float:
        """Return a figure of the best epoch; NaN where the history lacks it."""
        if not {"epoch", column} <= set(self.history):
            return float("nan")
        found = self.history.loc[self.history["epoch"] == self.done.get("best_epoch"), column]
        return float(found.iloc[-1]) if len(found) else float("nan")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of a run; `lacks` has a sentence about each member that is missing."""

    splits: pd.DataFrame
    merged: Merged
    evaluations: tuple[Evaluation, ...]
    mistakes: pd.DataFrame
    trainings: tuple[Training, ...]
    lacks: Mapping[Member, str]
    baseline_absent: str | None

    @property
    def headline(self) -> Evaluation:
        """Return the evaluation that stands for the run."""
        return next(one for one in self.evaluations if one.name == self.merged.headline)


def gather(
    run: RunPaths, plan: Plan, reasons: Mapping[int, str], *, allow_partial: bool
) -> Findings:
    """Return the findings of a run; `IncompleteError` if it lacks members, or has none at all."""
    missing = _missing(run, plan, reasons, allow_partial=allow_partial)
    splits = load_splits(run, plan)
    merged = merge(run, plan, splits, tuple(missing))
    judged = [evaluate(name, merged.rows, values) for name, values in merged.probabilities.items()]
    baseline, absent = _judge_baseline(plan, splits, merged)
    headline = next(one for one in judged if one.name == merged.headline)
    return Findings(
        splits=splits,
        merged=merged,
        evaluations=(*judged, *baseline),
        mistakes=find_mistakes(
            merged.rows, merged.probabilities[merged.headline], headline.threshold
        ),
        trainings=tuple(
            read_training(run.member(member.name), member)
            for member in plan.members
            if member not in missing
        ),
        lacks={
            member: f"{lack} ({reasons[member.index]})" if member.index in reasons else lack
            for member, lack in missing.items()
        },
        baseline_absent=absent,
    )


def _missing(
    run: RunPaths, plan: Plan, reasons: Mapping[int, str], *, allow_partial: bool
) -> dict[Member, str]:
    if not allow_partial:
        check_complete(run, plan, reasons)
        return {}
    missing = missing_members(run, plan)
    if len(missing) == len(plan.members):
        raise IncompleteError(word_missing(run, missing, reasons))
    return missing


def _judge_baseline(
    plan: Plan, splits: pd.DataFrame, merged: Merged
) -> tuple[tuple[Evaluation, ...], str | None]:
    """Return the baseline's evaluation, or none and the reason: a run may outlive its store."""
    try:
        features = read_features(plan)
    except DataError as error:
        return (), str(error)
    probabilities = predict_baseline(features, splits, len(plan.classes))
    return (evaluate(BASELINE, merged.rows, probabilities),), None


def read_training(paths: MemberPaths, member: Member) -> Training:
    """Return how a finished member was trained."""
    lines = paths.metrics.read_text(encoding="utf-8").splitlines() if paths.metrics.exists() else []
    history = pd.DataFrame([json.loads(line) for line in lines])
    numbers = history.apply(pd.to_numeric, errors="coerce") if len(history) else history
    return Training(member=member, done=read_json(paths.done), history=numbers.astype(np.float64))
