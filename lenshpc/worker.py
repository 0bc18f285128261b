"""What runs inside an allocation: a member, the aggregation, a conversion, or this machine's queue.

The scheduler's pickle holds a path and a number; all else is read from the run directory. torch is
imported where a job runs, not where it is submitted.
"""

import os
import sys
from pathlib import Path

from lenshpc.launch.prepare import PrepareCalls
from lenshpc.launch.submit import Calls
from lenshpc.paths import RunPaths


def run_member(root: str, index: int) -> None:
    """Complete the member `index` of the run at `root`, or exit EX_TEMPFAIL where it must stop."""
    from lenshpc.engine.signals import Signals, Stopped

    signals = Signals()
    from lenshpc.engine.checkpoint import Superseded
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
    from lenshpc.launch.states import reasons
    from lenshpc.plan import load_plan
    from lenshpc.report.write import write_report

    run = RunPaths(Path(root))
    plan = load_plan(run)
    write_report(run, plan, reasons=reasons(run, plan))


def convert_share(folder: str, task: int, num_tasks: int, jobs: int) -> None:
    """Convert the task's share of the shards that a draft lacks."""
    from lenshpc.prep.convert import convert_shards
    from lenshpc.store import open_draft

    draft = open_draft(Path(folder))
    mine = [shard for shard in draft.missing() if shard % num_tasks == task]
    convert_shards(draft, mine, jobs=jobs)


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
