"""What every report rests on: the run's plan and splits, its trainings, what is missing."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lenshpc.errors import IncompleteError
from lenshpc.run.completion import missing_members, read_facts, read_output
from lenshpc.run.gate import Standing, check_complete, describe_lack, format_incomplete
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, load_splits, open_planned_store
from lenshpc.run.predictions import read_predictions
from lenshpc.run.stages import Say, Stages, silent
from lenshpc.store import Store


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
class RunResults:
    """What is known of a run of any task; `lacks` has a sentence about each missing member.

    `out` is where the report goes, if not into the run; `changes` has, of a judging other than the
    run's own, key → the run's value and this one. `usage` and `failures` are what its jobs
    cost and how they failed, as plain values. `tools` are the task's functions that need a trained
    network, by name; they take a member first. `say` is told what is being done, `stages` what of
    it takes how long.
    """

    run: RunPaths
    plan: Plan
    splits: pd.DataFrame
    trainings: tuple[Training, ...]
    lacks: Mapping[Member, str]
    out: RunPaths | None = None
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    failures: Sequence[Mapping[str, Any]] = ()
    tools: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    say: Say = field(default=silent)
    stages: Stages = field(default_factory=Stages)

    @property
    def place(self) -> RunPaths:
        """Return the folder into which the report and merged images go."""
        return self.out or self.run

    @property
    def merged(self) -> Path:
        """Return where images that are merged for the report lie."""
        return self.place.merged

    @property
    def missing(self) -> tuple[Member, ...]:
        """Return the members that are not done."""
        return tuple(self.lacks)

    @cached_property
    def store(self) -> Store:
        """Return the store that the run was planned on; DataError where it is gone, or another."""
        return open_planned_store(self.plan)

    def predictions(self) -> pd.DataFrame:
        """Return what finished members predict: row, id, split, model and values a row of each."""
        members = [training.member for training in self.trainings]
        read = [read_predictions(self.run, self.plan, self.splits, one) for one in members]
        named = (part.assign(model=one.model) for part, one in zip(read, members, strict=True))
        return pd.concat(named, ignore_index=True)


def gather(
    run: RunPaths,
    plan: Plan,
    standings: Mapping[int, Standing],
    *,
    allow_partial: bool,
    **extras: Any,
) -> RunResults:
    """Return what is known of a run; `IncompleteError` if it lacks members, or has none at all."""
    missing = _find_missing(run, plan, standings, allow_partial=allow_partial)
    present = [member for member in plan.members if member not in missing]
    return RunResults(
        run=run,
        plan=plan,
        splits=load_splits(run, plan),
        trainings=tuple(read_training(run, one) for one in present),
        lacks={
            member: describe_lack(lack, standings.get(member.index))
            for member, lack in missing.items()
        },
        **extras,
    )


def _find_missing(
    run: RunPaths, plan: Plan, standings: Mapping[int, Standing], *, allow_partial: bool
) -> dict[Member, str]:
    if not allow_partial:
        check_complete(run, plan, standings)
        return {}
    missing = missing_members(run, plan)
    if len(missing) == len(plan.members):
        raise IncompleteError(format_incomplete(run, missing, standings))
    return missing


def read_training(run: RunPaths, member: Member) -> Training:
    """Return how a finished member was trained."""
    lines = read_output(run, member, run.member(member.name).metrics).decode().splitlines()
    history = pd.DataFrame([json.loads(line) for line in lines])
    numbers = history.apply(pd.to_numeric, errors="coerce") if len(history) else history
    return Training(member=member, done=read_facts(run, member), history=numbers.astype(np.float64))


def val_metrics(trainings: Sequence[Training]) -> list[str]:
    """Return the metrics of the validation rows that any member noted, in their order."""
    columns = (str(column) for training in trainings for column in training.history)
    return list(
        dict.fromkeys(one.removeprefix("val_") for one in columns if one.startswith("val_"))
    )
