"""Open a trained ensemble: of a run, whose readout is fitted then, or of an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lenshpc.config import unknown
from lenshpc.errors import ConfigError
from lenshpc.inference.archive import is_packed, unpack
from lenshpc.launch.states import standings
from lenshpc.registry import find_readout, is_kept_file
from lenshpc.run.completion import read_facts
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RUNS, RunPaths, find_run
from lenshpc.run.plan import Plan, load_plan
from lenshpc.run.recipe import is_variant
from lenshpc.run.results import RunResults, gather
from lenshpc.run.splits import find_learnt
from lenshpc.run.stages import Say, silent
from lenshpc.run.trained import (
    MODEL,
    EnsembleSpec,
    PixelStatistics,
    TrainedEnsemble,
    TrainedMember,
    narrow,
    read_export,
)


def open_trained(
    source: str | os.PathLike[str],
    models: Sequence[str] | None = None,
    *,
    runs: Path = RUNS,
    say: Say = silent,
) -> TrainedEnsemble:
    """Return the trained ensemble of a run (a name or path) or of an export (folder or .zip).

    `models` chooses some of a run's; by default all are taken but variants. IncompleteError where
    a member of these is not done.
    """
    text = os.fspath(source)
    packed = is_packed(Path(text))
    if packed or (Path(text) / MODEL).exists():
        if models is not None:
            raise ConfigError(
                f"{text} is an export, whose models are used together; choose them when you "
                "export: lenshpc export RUN DIR --models"
            )
        return read_export(unpack(Path(text)) if packed else Path(text))
    return of_run(find_run(text, runs), models, say=say)


def of_run(
    run: RunPaths, models: Sequence[str] | None = None, *, say: Say = silent
) -> TrainedEnsemble:
    """Return the trained ensemble of a run that is done."""
    plan = _choose(load_plan(run), models)
    readout = find_readout(plan.recipe.task, f"run {run.name}")
    # Networks of a file are code, and somebody else may write here.
    if any(is_kept_file(one.network) for one in plan.members):
        require_own(run)
    results = gather(run, plan, standings(run, plan), allow_partial=False, say=say)
    say("fitting threshold and calibration out-of-fold")
    fitted = readout.fit(results)
    spec = describe_run(results, fitted.values)
    return TrainedEnsemble(
        spec=spec,
        weights={one.index: run.member(one.name).weights for one in spec.members},
        arrays=fitted.arrays,
        code=run.code,
    )


def describe_run(results: RunResults, fitted: Mapping[str, Any]) -> EnsembleSpec:
    """Return what a run's ensemble is; `fitted` is what its readout has learnt."""
    plan, store = results.plan, results.store
    return EnsembleSpec(
        name=results.run.name,
        fingerprint=plan.fingerprint(),
        plugins=plan.plugins,
        recipe=narrow(plan.recipe, plan.recipe.models),
        dataset=plan.dataset,
        source=store.attributes["source"],
        classes=plan.classes,
        channels=store.channels,
        image_shape=store.image_shape,
        dtype=store.dtype.name,
        target_shape=store.target_shape,
        pixels=PixelStatistics.of(store.column("moments", find_learnt(results.splits))),
        members=tuple(
            TrainedMember(
                **one.model_dump(),
                mean=done["mean"],
                std=done["std"],
                sha256=done["files"]["model.safetensors"],
            )
            for one in plan.members
            for done in (read_facts(results.run, one),)
        ),
        fitted=fitted,
    )


def _choose(plan: Plan, models: Sequence[str] | None) -> Plan:
    """Return the Plan of some models alone; members keep their numbers, which folders have."""
    known = plan.recipe.models
    for name in models or ():
        if name not in known:
            raise ConfigError(f"--models: {unknown('model', name, known)}")
    wanted = [one for one in known if one in models] if models else _plain(known)
    return plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update={"models": tuple(wanted)}),
            "members": tuple(one for one in plan.members if one.model in wanted),
        }
    )


def _plain(models: Sequence[str]) -> list[str]:
    # As in the report's headline: variants are there to be compared. A run of variants alone has
    # its first for a headline.
    return [one for one in models if not is_variant(one)] or [models[0]]
