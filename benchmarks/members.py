"""Runs of one member, written so that this process can train it."""

from lenshpc.registry import path_in_run
from lenshpc.run.plan import save_plan
from lenshpc.run.planning import PlannedRun


def write_plan(planned: PlannedRun) -> None:
    """Write what a member reads, as a submission does."""
    run = planned.paths
    save_plan(run, planned.plan, planned.splits)
    for name, content in planned.files.items():
        path = path_in_run(run.code, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    run.slurm.mkdir(mode=0o700, exist_ok=True)
