"""The run of pre-training that another one starts from: what must end before that can begin."""

from lenshpc.errors import ConfigError, LaunchError
from lenshpc.launch.jobs import latest_of_members
from lenshpc.launch.states import ENDED, run_status
from lenshpc.run.completion import missing_members, reference, resume_command
from lenshpc.run.origin import origin_of
from lenshpc.run.plan import Plan, load_plan


def find_awaited_jobs(plan: Plan) -> tuple[str, ...]:
    """Return the jobs of SLURM that make the weights which a run starts from.

    `ConfigError` where these weights are neither there nor on their way.
    """
    origin = origin_of(plan.recipe)
    if origin is None:
        return ()
    before = load_plan(origin)
    status = run_status(origin, before)
    if status.silence:
        raise LaunchError(f"nothing was submitted: {status.silence}; try again")
    active = {line.index for line in status.members if line.state not in ENDED}
    lacking = {member.index for member in missing_members(origin, before)}
    # Not there and not on its way: `afterany` would let the members begin, and each would fail on a
    # node.
    if lacking - active:
        raise ConfigError(
            f"run {plan.run_name} starts from run {origin.name}, of which members are missing; "
            f"finish it with: {resume_command(origin)}"
        )
    latest = latest_of_members(origin)
    jobs = (latest[index] for index in sorted(active))
    return tuple(job_id for job, job_id in jobs if job.scheduler == "slurm")


def check_ended(plan: Plan, jobs: tuple[str, ...]) -> None:
    """Refuse to run here what starts from weights that a cluster is still making."""
    origin = origin_of(plan.recipe)
    if origin is not None and jobs:
        raise ConfigError(
            f"run {origin.name} is under way on a cluster; wait for it with: "
            f"lenshpc status {reference(origin)} --watch"
        )
