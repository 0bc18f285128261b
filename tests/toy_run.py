"""A run whose members are trained here, one after the other, in this process."""

from pathlib import Path
from typing import Any

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, save_plan
from lenshpc.run.recipe import Recipe
from lenshpc.run.results import RunResults, gather
from lenshpc.store import Store

SMALL = {"batch_size": 8, "epochs": 1, "lr": 1e-3}


def train(
    folder: Path, store: Store, task: str, models: tuple[str, ...], **further: Any
) -> RunPaths:
    """Return a run that is done, of two folds and an epoch each."""
    recipe = Recipe(name="toy", task=task, models=models, folds=2, train=SMALL, **further)
    plan, splits = expand(recipe, store)
    run = RunPaths(folder / "runs" / plan.run_name)
    save_plan(run, plan, splits)
    for member in plan.members:
        run_member(run, member.index, Signals())
    return run


def results_of(run: Any) -> RunResults:
    """Return the results of a planted run that is done."""
    return gather(run.paths, run.plan, {}, allow_partial=False)
