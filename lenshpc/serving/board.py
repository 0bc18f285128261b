"""What a folder of runs holds, looked up when a reader asks, and not more often than it bears."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import ConfigError, LensHpcError, read_error
from lenshpc.launch.jobs import intents
from lenshpc.launch.runs import RunSummary, describe_run, describe_unread
from lenshpc.launch.slurm import Known
from lenshpc.launch.states import Asked, RunStatus, read_status, slurm_jobs
from lenshpc.run.paths import RunPaths, find_runs
from lenshpc.run.plan import Plan, load_plan
from lenshpc.serving.curves import CurveReader, MemberCurve, Stamp, stamp_of
from lenshpc.serving.scheduler import Scheduler

FILES_EVERY_S = 1.0
SLOW_S = 0.25  # a look that takes longer is taken as much more seldom: folders may be slow
OPEN_SUBMISSION = "a command is sending its jobs, or was stopped while it did"


@dataclass(frozen=True, kw_only=True)
class SeenRun:
    """A run as it was last seen; without Plan and status where it cannot be read."""

    paths: RunPaths
    summary: RunSummary
    plan: Plan | None = None
    status: RunStatus | None = None
    curves: tuple[MemberCurve, ...] = ()


class Board:
    """The runs in a folder; threads may share it."""

    def __init__(self, folder: Path, scheduler: Scheduler, every_s: float = FILES_EVERY_S) -> None:
        self.folder = folder
        self._scheduler, self._every_s = scheduler, every_s
        self._lock = threading.Lock()
        self._next = 0.0
        self._seen: Mapping[str, SeenRun] = {}
        self._stamps: dict[str, Stamp] = {}
        self._plans: dict[Path, tuple[Stamp, Plan]] = {}
        self._curves = CurveReader()

    def look(self) -> Mapping[str, SeenRun]:
        """Return the runs by name, the one that was submitted last at the front.

        Raises LensHpcError where the folder cannot be read; a run that cannot be is told as such.
        """
        with self._lock:
            began = time.monotonic()
            if began >= self._next:
                self._seen = self._look_anew()
                took_s = time.monotonic() - began
                self._next = time.monotonic() + self._every_s * max(1.0, took_s / SLOW_S)
            return self._seen

    def _look_anew(self) -> Mapping[str, SeenRun]:
        runs = find_runs(self.folder)
        stamps = {run.name: _stamp_run(run) for run in runs}
        kept = {
            run.name: self._seen[run.name]
            for run in runs
            if self._stamps.get(run.name) == stamps[run.name] and _is_over(self._seen[run.name])
        }
        fresh = [run for run in runs if run.name not in kept]
        # What is over is not asked for again: sites bear few queries, and of few jobs.
        asked = self._scheduler.ask(str(self.folder), _list_jobs(fresh))
        found = kept | {run.name: self._look_at(run, asked) for run in fresh}
        self._stamps = stamps
        return dict(
            sorted(found.items(), key=lambda one: (one[1].summary.submitted, one[0]), reverse=True)
        )

    def _look_at(self, run: RunPaths, asked: Asked) -> SeenRun:
        if run.root.parent != self.folder.resolve():
            link = ConfigError(f"it is a link to {run.root}, which this page does not follow")
            return SeenRun(paths=run, summary=describe_unread(run, link))
        try:
            plan = self._load_plan(run)
            status = read_status(run, plan, _narrow(run, asked))
            curves = self._curves.read(run, plan)
            summary = describe_run(run, plan, status)
        except LensHpcError as error:
            return SeenRun(paths=run, summary=describe_unread(run, error))
        except OSError as error:
            told = read_error(error.filename or run.root, error)
            return SeenRun(paths=run, summary=describe_unread(run, told))
        return SeenRun(paths=run, summary=summary, plan=plan, status=status, curves=curves)

    def _load_plan(self, run: RunPaths) -> Plan:
        stamp = stamp_of([run.plan])
        if self._plans.get(run.plan, (None,))[0] != stamp:
            self._plans[run.plan] = (stamp, load_plan(run))
        return self._plans[run.plan][1]


def _list_jobs(runs: Iterable[RunPaths]) -> set[str]:
    found: set[str] = set()
    for run in runs:
        try:
            found |= slurm_jobs(run)
        except (LensHpcError, OSError):  # told where the run itself is looked at
            continue
    return found


def _narrow(run: RunPaths, asked: Asked) -> Asked:
    """Return what SLURM has said as far as it is of this run's jobs: others' silence is none."""
    silence = OPEN_SUBMISSION if intents(run) else ""
    if slurm_jobs(run):
        silence = asked.known.silence or silence
    return Asked(job_ids=asked.job_ids, known=Known(jobs=asked.known.jobs, silence=silence))


def _is_over(seen: SeenRun) -> bool:
    """Say whether nothing of a run can change but by another command, which its stamp shows."""
    return (
        seen.status is not None
        and all(line.state == "DONE" for line in seen.status.members)
        and not seen.status.report_is_due
        and not seen.status.silence
    )


def _stamp_run(run: RunPaths) -> Stamp:
    queue = run.slurm / "queue.json"
    return stamp_of([run.root, run.plan, run.root / "members", run.slurm, run.jobs, queue])
