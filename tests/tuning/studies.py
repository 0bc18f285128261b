"""Studies of test_resnet on the spots, and trainings that are a formula instead."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ranks import recipe

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.signals import Signals
from lenshpc.files import write_sealed
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store
from lenshpc.tuning.boards import begin
from lenshpc.tuning.study import Study, StudySettings, plan_study, write_study

KEYS = {"train.lr": {"log": [1e-4, 1e-1]}, "train.clip_norm": {"float": [0, 1]}}
Curve = Callable[[Recipe, int], float]  # the AUC of a recipe after an epoch


def searching(search: Mapping[str, Any] | None = None, **changes: object) -> Recipe:
    """Return a recipe of two folds that searches."""
    return recipe(folds=2, search={"keys": KEYS, **(search or {})}, **changes)


def began(folder: Path, store: Store, asked: Recipe, **limits: Any) -> Study:
    """Write a study."""
    study, planned = plan_study(asked, store, folder)
    base = planned.plan.fingerprint()
    write_study(study, planned, StudySettings(recipe=asked, base=base, runs=folder, **limits))
    begin(study)
    return study


def valley(asked: Recipe, epoch: int) -> float:
    """Return an AUC that is best at lr 0.01, and grows by epoch."""
    lr = asked.train.lr
    return 1 - 0.1 * abs(float(f"{lr:.9g}") - 0.01) ** 0.5 - 0.01 / (1 + epoch)


def formula(curve: Curve = valley, trained: list[str] | None = None):
    """Return what trains a member by a formula, noting its run in `trained`."""

    def train(run: RunPaths, index: int, signals: Signals, give_up) -> None:
        plan = load_plan(run)
        member = plan.members[index]
        if trained is not None:
            trained.append(f"{run.name[:9]}/{index}")
        paths = run.member(member.name)
        paths.root.mkdir(parents=True, exist_ok=True)
        progress = MemberProgress(fingerprint=plan.member_fingerprint(member), world_size=1)
        for epoch in range(plan.recipe.train.epochs):
            auc = curve(plan.recipe, epoch)
            line = {"epoch": epoch, "val_auc": auc, "val_loss": 1 - auc, "seconds": 36.0}
            history = (*progress.history, line)
            progress = progress.model_copy(update={"history": history})
            paths.metrics.write_text("".join(f"{json.dumps(one)}\n" for one in history))
            if give_up(progress):
                raise GivenUp(f"epoch {epoch + 1}")
        write_sealed(paths.progress, progress.model_dump(mode="json"))

    return train
