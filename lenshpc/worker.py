"""What runs inside an allocation: a member, the aggregation, a share of a conversion or of samples.

As a module it is this machine's queue. The scheduler's pickle holds a path and numbers; all else is
read from the run directory. torch is imported where a job runs, not where it is submitted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lenshpc.launch.prepare import PrepareCalls
from lenshpc.launch.submit import Calls
from lenshpc.run.paths import RunPaths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenshpc.report.content import Report
    from lenshpc.run.plan import Member, Plan


def run_member(root: str, index: int) -> None:
    """Complete the member `index` of the run at `root`, or exit EX_TEMPFAIL where it must stop."""
    from lenshpc.engine.signals import Signals, Stopped

    signals = Signals()
    from lenshpc.engine.lease import Superseded
    from lenshpc.engine.member import run_member as complete

    try:
        complete(RunPaths(Path(root)), index, signals)
    except Stopped as stopped:
        raise SystemExit(os.EX_TEMPFAIL) from stopped
    except Superseded as superseded:
        # no failure: srun would end the step, and the later attempt's has the same name
        sys.stderr.write(f"lenshpc: {superseded}\n")


def run_aggregate(root: str) -> None:
    """Write the report of the run at `root`, or fail naming what is missing."""
    write_report(RunPaths(Path(root)))


def write_report(
    run: RunPaths, *, allow_partial: bool = False, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Write the report of a run with all that is known of its jobs, and return it."""
    from lenshpc.launch.history import past_failures
    from lenshpc.launch.ledger import summary
    from lenshpc.launch.states import reasons
    from lenshpc.report.write import compose, write
    from lenshpc.run.plan import load_plan
    from lenshpc.run.results import gather

    plan = load_plan(run)
    findings = gather(
        run,
        plan,
        reasons(run, plan),
        allow_partial=allow_partial,
        ledger=summary(run, plan),
        failures=past_failures(run, plan),
        explain=partial(_explain, run, plan),
        reconstruct=partial(_reconstruct, run, plan),
        walk=partial(_walk, run, plan),
        say=say,
    )
    report = compose(findings)
    say("writing the report")
    write(report, run.report)
    return report


def _explain(run: RunPaths, plan: Plan, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return maps (n, H, W) of what the first finished member looked at in rows of the store."""
    from lenshpc.tasks.supervised.explain import grad_cam

    return grad_cam(plan, run, _first_finished(run, plan), rows)


def _walk(run: RunPaths, plan: Plan) -> NDArray[np.float32]:
    """Return frames (F, C, H, W) between images that the first finished member draws."""
    from lenshpc.tasks.diffusion.generate import open_generator

    return open_generator(plan, run, _first_finished(run, plan)).walk()


def _first_finished(run: RunPaths, plan: Plan) -> Member:
    from lenshpc.run.completion import is_done

    return next(
        member for member in plan.members if is_done(run.member(member.name), plan.fingerprint())
    )


def _reconstruct(
    run: RunPaths, plan: Plan, member: Member, rows: NDArray[np.int64]
) -> Mapping[str, NDArray[np.float32]]:
    """Return what a finished member's lenses make of rows of the store."""
    from lenshpc.tasks.physics_guided.reconstruct import reconstruct

    return reconstruct(plan, run, member, rows)


def convert_share(folder: str, task: int, num_tasks: int, jobs: int) -> None:
    """Convert the task's share of the shards that a draft lacks."""
    from lenshpc.prep.convert import convert_shards
    from lenshpc.store import open_draft

    draft = open_draft(Path(folder))
    mine = [shard for shard in draft.missing() if shard % num_tasks == task]
    convert_shards(draft, mine, jobs=jobs)


def draw_share(
    root: str,
    task: int,
    num_tasks: int,
    index: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Draw the task's share of the shards of samples that a member lacks."""
    from lenshpc.run.plan import load_plan
    from lenshpc.run.samples import open_samples
    from lenshpc.tasks.diffusion.generate import open_generator

    run = RunPaths(Path(root))
    plan = load_plan(run)
    samples = open_samples(run, plan.members[index], seed)
    mine = [shard for shard in samples.missing() if shard % num_tasks == task]
    if not mine:
        return
    generator = open_generator(plan, run, plan.members[index])
    for done, shard in enumerate(mine, start=1):
        samples.write(shard, generator.draw(samples.rows(shard), seed))
        progress(done, len(mine))


def join_shards(folder: str) -> None:
    """Finish the store whose shards an array has converted, or fail naming what is missing."""
    from lenshpc.store import open_draft

    open_draft(Path(folder)).finish()


CALLS = Calls(member=run_member, aggregate=run_aggregate)
PREPARE_CALLS = PrepareCalls(convert=convert_share, join=join_shards)


def main() -> None:
    """Run the local queue of the run that is named on the command line."""
    from lenshpc.launch.local import run_queue
    from lenshpc.worker import CALLS  # not __main__'s: the jobs' pickles name their module

    run_queue(RunPaths(Path(sys.argv[1])), CALLS)


if __name__ == "__main__":
    main()
