"""Begin a study and carry it on: as jobs of a cluster, or here, trial by trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

from lenshpc.errors import IncompleteError
from lenshpc.files import lock
from lenshpc.launch.jobs import records
from lenshpc.launch.modes import writing
from lenshpc.launch.sites import Site, check_fits
from lenshpc.launch.tune import (
    Stage,
    TuneCalls,
    find_active,
    note_submission,
    run_here,
    send_study,
)
from lenshpc.run.planning import PlannedRun
from lenshpc.tuning.boards import ask_round, begin, list_due, read_rounds, read_trials, release
from lenshpc.tuning.study import Study, StudySettings, write_study
from lenshpc.tuning.summary import describe_values

Say = Callable[[str], None]


def begin_study(
    study: Study,
    planned: PlannedRun,
    settings: StudySettings,
    site: Site,
    calls: TuneCalls,
    say: Say,
) -> dict[str, Any]:
    """Write a study and carry it on; safe to repeat. A new one of which nothing was sent is undone.

    Returns the ids of its jobs, none where it was run here.
    """
    check_fits(site, planned.plan.recipe)
    is_new = not study.root.exists()
    try:
        with writing(site.umask):
            write_study(study, planned, settings)
            begin(study)
        return carry_on(Study(study.root), site, calls, say)
    except BaseException:
        if is_new and not (study.find_trials() or records(study.base)):
            shutil.rmtree(study.root, ignore_errors=True)
        raise


def carry_on(study: Study, site: Site, calls: TuneCalls, say: Say) -> dict[str, Any]:
    """Send what a study lacks, and the report after it; return the ids of the jobs.

    IncompleteError where another command runs the study on this machine.
    """
    base = study.base
    with writing(site.umask):
        if site.scheduler == "slurm":
            if not find_active(base):
                release(study)
            return send_study(base, study.plan, site, calls, plan_stages(study))
        # A second command would take over the trial that runs, and train it again.
        with lock(study.root / ".lock"):
            note_submission(base, site)
            release(study)
            last = study.search.trials - 1
            say(f"study {study.root.name}: trials 0 to {last}, one after the other on this machine")
            say(f"follow it with: lenshpc tune --status {study.root}")
            _run_all(study, site, calls, say)
            calls.finish(str(base.root))
    return {}


def plan_stages(study: Study) -> Iterator[Stage]:
    """Yield what is left of a study: trials that have not ended, and rounds that follow them."""
    due, search = list_due(study), study.search
    if due:
        yield Stage(elements=due)
    if search.round_size is None:
        return
    begun = sum(map(len, read_rounds(study)))
    for first in range(begun, search.trials, search.round_size):
        last = min(first + search.round_size, search.trials)
        yield Stage(asks=True, elements=tuple(range(first, last)))


def _run_all(study: Study, site: Site, calls: TuneCalls, say: Say) -> None:
    """Run what is left of a study on this machine, and say how each trial has ended."""
    search = study.search
    while True:
        for element in list_due(study):
            if search.round_size is None and study.has_spent_all():
                return
            run_here(study.base, study.plan, site, calls.trial, (element,))
            _say_ends(study, say)
        left = list_due(study) if search.round_size else ()
        if left:
            raise IncompleteError(
                f"trial {left[0]} did not finish; look at {study.base.slurm}, then continue with: "
                f"lenshpc tune --resume {study.root}"
            )
        if search.round_size is None or ask_round(study) is None:
            return


def _say_ends(study: Study, say: Say) -> None:
    ended = [one for one in read_trials(study) if one.state != "RUNNING"]
    for one in ended[-1:]:
        result = f"{one.value:.6g}" if one.value is not None else f"{one.state} {one.reason}"
        say(f"trial {one.number}: {describe_values(one)}: {result}")
